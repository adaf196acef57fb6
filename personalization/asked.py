"""What a concept is asked for: prompts with its word, and the same ones with the class word in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .composition import PlacedConcept
from .prompt import occurrences, rewrite

WORD = "<word>"  # stands for any concept's own word
SUBJECT = (
    f"a photo of {WORD} on the beach",
    f"a photo of {WORD} in the forest",
    f"a photo of {WORD} in the snow",
    f"a photo of {WORD} at night",
    f"a watercolor painting of {WORD}",
)
STYLE = (
    f"a mug on the beach, in {WORD}",
    f"a bag in the forest, in {WORD}",
    f"a shoe in the snow, in {WORD}",
    f"a house at night, in {WORD}",
)


class Asked(NamedTuple):
    """`text` has the concept's word, `plain` its class word instead: what strength 0 means."""

    text: str
    plain: str


def asked(lines: str, placed: PlacedConcept) -> tuple[Asked, ...]:
    """One prompt per line of `lines`; none: those of the concept's role. ValueError for a line without the word."""
    own = STYLE if (placed.role or placed.concept.info.role) == "style" else SUBJECT
    written = [line.strip() for line in lines.splitlines() if line.strip()] or own
    return tuple(_asked(line.replace(WORD, f"<{placed.word}>"), placed) for line in written)


def _asked(text: str, placed: PlacedConcept) -> Asked:
    if not occurrences(text, (placed,)):
        raise ValueError(
            f"The prompt '{text}' does not hold the concept's word; each line needs <{placed.word}>, or <word>, which "
            f"stands for it. Write 'a photo of <{placed.word}>', or leave the prompts empty for a set of ours."
        )
    silent = (replace(placed, strength=0.0),)
    return Asked(text, " ".join(rewrite(text, silent, lambda number, one: "").split()))
