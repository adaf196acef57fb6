"""Compositions: which concepts act, how strongly, where in the picture and when."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

from torch import Tensor

from .concept import Concept
from .parts.low_rank import LowRank


@dataclass(frozen=True)
class PlacedConcept:
    """A concept in use. `region` is a mask (height, width) in 0..1 over the whole picture, None = everywhere.

    `start` and `end` are percents of sampling (0..1) between which the parts act. `sparing` keeps low-rank layers out
    of conditionings without the word, and a subject's out of the prompt's other words; else they are merged into the
    model, as a LoRA is. `focus` multiplies the attention logits of its word wherever there is no region.
    """

    concept: Concept
    strength: float = 1.0
    role: str = ""  # empty: the concept's own
    region: Tensor | None = None
    start: float = 0.0
    end: float = 1.0
    placeholder: str = ""  # empty: the concept's own; Load Concept may rename it for a workflow
    sparing: bool = True
    focus: float = 1.0

    @property
    def word(self) -> str:
        return spelled(self.placeholder or self.concept.info.placeholder)

    @property
    def merges(self) -> bool:
        """Whether it has low-rank layers that go into the weights (parts/low_rank.py)."""
        always = self.region is None and (self.start, self.end) == (0, 1)
        return always and not self.sparing and self.strength != 0 and self.concept.has(LowRank)

    @property
    def narrow(self) -> bool:
        """Whether its low-rank layers change keys and values of its own phrase alone; a style's are in every row."""
        return self.sparing and (self.role or self.concept.info.role) == "subject"


Composition = tuple[PlacedConcept, ...]


def spelled(word: str) -> str:
    """The one spelling of a placeholder: in whatever case and width of letters a prompt writes it."""
    return unicodedata.normalize("NFKC", word).casefold()


def as_recommended(concept: Concept, placeholder: str = "") -> PlacedConcept:
    """`concept` as it is used where nobody says otherwise: at the strength that its file recommends."""
    return PlacedConcept(concept, concept.info.strength, placeholder=placeholder)


def used_at(concept: Concept) -> str:
    """The sentence about it, empty where nothing but 1 is recommended."""
    strength = concept.info.strength
    return f"Used at the recommended strength {strength:g}." if strength != 1 else ""


def woven(old: Composition, new: Composition) -> Composition:
    """One composition keyed by placeholder: the same word again replaces, other words add up, sorted by word."""
    by_word = {placed.word: placed for placed in (*old, *new)}
    return tuple(by_word[word] for word in sorted(by_word))


def narrowed(placed: PlacedConcept, role: str) -> PlacedConcept:
    """`placed` restricted to `role`; only a concept learned as "both" can be narrowed, none can be widened."""
    own = placed.concept.info.role
    if role not in (own, "") and own != "both":
        raise ValueError(
            f"The concept '{placed.concept.info.name}' was learned as {own}; it cannot be used as {role}. "
            f"Use it as {own}, or learn it again with the role {' or '.join(dict.fromkeys((role, 'both')))}."
        )
    return replace(placed, role=role)
