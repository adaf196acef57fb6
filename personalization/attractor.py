"""The background attractor (arXiv 2503.06632): a word per training picture that takes what is not the subject.

`a photo of [V] <class>, [B_j]`: [B_j] belongs to picture j alone, starts as the word "background", is left out of 15 in
100 captions and of every prompt after learning. A contrast in image space keeps the two apart: at attn2 the hidden
states are pooled under [V]'s map and under [B_j]'s map, and pools of [V] from different pictures shall agree more with
each other than with the pools of [B]. No code was published; parametrisation, prompt and contrast are ours. Ours: [B_j]
is a row of the context, the same at every site, since the rows of [V] before it cannot see it in a causal encoder.

With a subject mask the paper asks the inside of [V] alone and the outside of [B_j]; how, is not known. Our reading: one
prediction under both words, the loss inside moves only [V], the loss outside only [B_j]; neither learns what the other
is there for. A share of captions without [B_j] would not do: asked for nothing outside, [V] is free of it anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .composition import Composition, PlacedConcept
from .concept import Concept
from .denoiser import Context, Observation, Observer, PromptEncoder, slot_rows, unseen
from .indices import indices
from .objectives import denoising_loss, subject_contrast
from .parts import ContextRows
from .sites import Site

KIND = "attractor."
CLASS_WORD = "background"
DROPPED = 0.15
OF = 20  # captions of which DROPPED are without


def word_of(number: int) -> str:
    return f"concept-loom-background-{number}"


def starting_rows(encoder: PromptEncoder, concept: Concept, count: int) -> dict[str, Tensor]:
    """`attractor.j` (1, context width) for `count` pictures: the frozen encoder's own row of the word "background"."""
    base = concept.info.base
    rows = {f"{KIND}{number}": torch.zeros(1, base.context_width) for number in range(count)}
    composition = (PlacedConcept(concept), *attractors(concept, rows))
    with torch.no_grad():
        context = encoder.encode(with_attractor(f"a photo of <{composition[0].word}>", 0), composition)
    start = slot_rows(context, base, 1, word_of(0))
    return {name: start.clone() for name in rows}


def attractors(concept: Concept, tensors: Mapping[str, Tensor]) -> Composition:
    """The words [B_j] over live tensors `attractor.j`, ready to stand beside the concept in a composition."""
    rows = {int(name.removeprefix(KIND)): row for name, row in tensors.items() if name.startswith(KIND)}
    return tuple(PlacedConcept(_attractor(concept, number, row)) for number, row in sorted(rows.items()))


def _attractor(concept: Concept, number: int, row: Tensor) -> Concept:
    word = word_of(number)
    info = replace(concept.info, name=word, placeholder=word, phrase="[V]", class_word=CLASS_WORD)
    return Concept(info, {}, (ContextRows({shape.site: row for shape in info.base.sites}),))


def with_attractor(text: str, number: int) -> str:
    return f"{text}, <{word_of(number)}>"


def with_attractors(texts: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Training texts with their picture's attractor behind them, left out as often as DROPPED says."""
    without = round(DROPPED * OF)
    return [
        tuple(text if i < without else with_attractor(text, number) for text in one for i in range(OF))
        for number, one in enumerate(texts)
    ]


def mask_split(denoised: Tensor, x0: Tensor, weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The denoising loss inside the mask, asked of [V] alone, and outside of it, asked of [B_j]; (b,) each.

    Where there is no mask both are asked for all. Shapes as in `denoising_loss`.
    """
    masked = mask.amin((1, 2, 3), keepdim=True) < 1  # (b, 1, 1, 1)
    others = torch.where(masked, 1 - mask, mask)
    return denoising_loss(denoised, x0, weight, mask), denoising_loss(denoised, x0, weight, others)


@dataclass
class Contrast:
    """What the sites of one training step saw of [V] and [B], and the loss over it.

    `own` are the samples that come with their [B], `pictures` whose it is; (k,) each.
    """

    word: str
    contexts: Sequence[Context]
    device: torch.device
    _losses: list[Tensor] = field(default_factory=list)
    _given: bool = False

    def __post_init__(self) -> None:
        found = [self._standing(context) for context in self.contexts]
        columns = [(subject, subject if scenery is None else scenery) for subject, scenery, _ in found]
        pictures = {sample: picture for sample, (*_, picture) in enumerate(found) if picture is not None}
        self.columns = indices(columns, self.device)
        self.own, self.pictures = indices([list(pictures), list(pictures.values())], self.device)
        self.contrasts = len(set(pictures.values())) > 1

    @property
    def observer(self) -> Observer:
        """Not kept: a cycle would keep a step's graph alive until Python looks for cycles."""
        return Observer(self._see, self.columns)

    def loss(self) -> Tensor:
        """The mean over the sites; 0 where no two pictures came with their attractors."""
        if not self._losses:
            raise unseen("the attractor's contrast")
        self._given = True
        return torch.stack(self._losses).mean()

    def _standing(self, context: Context) -> tuple[int, int | None, int | None]:
        """Where [V] and [B] stand in a context, and whose [B] it is."""
        rows = {slots.word: next(iter(slots.rows.values()))[0] for slots in context.slots}
        others = [word for word in rows if word != self.word]
        if not others:
            return rows[self.word], None, None
        return rows[self.word], rows[others[0]], int(others[0].rpartition("-")[2])

    def _see(self, site: Site, seen: Observation) -> None:
        """A checkpointed block runs again in the backward pass and must compute the same, but nothing of it is kept."""
        if seen.attention is None:
            return
        loss = self._at_a_site(seen.attention.mean(1), seen.hidden.float())
        if not self._given:
            self._losses.append(loss)

    def _at_a_site(self, maps: Tensor, hidden: Tensor) -> Tensor:
        """`maps` (b, n, 2) of [V] and [B], `hidden` (b, n, w)."""
        if not self.contrasts:
            return maps.new_zeros(())
        pools = torch.einsum("bnk,bnw->bkw", maps / maps.sum(1, keepdim=True), hidden)
        subject, scenery = pools[self.own].unbind(1)  # (k, w) each
        return subject_contrast(subject, scenery, self.pictures)
