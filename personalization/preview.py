"""Previews: quick pictures of what a concept is by now, sampled with what training already holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .asked import asked
from .composition import Composition, as_recommended
from .concept import Concept
from .denoiser import Denoiser, PromptEncoder
from .sampling import euler

STEPS = 10
GUIDANCE = 4.0
PREDICTIONS = 2 * STEPS
SEED = 7  # the same noise every time, so that previews can be compared


class Sitting(NamedTuple):
    """How a picture is sampled."""

    seed: int = SEED
    steps: int = STEPS
    guidance: float = GUIDANCE


def probes(
    denoiser: Denoiser, encoder: PromptEncoder, concept: Concept, template: str, shape: Sequence[int]
) -> Iterator[Tensor]:
    """`preview`, then the first and the last of what Evaluate Concept asks: what was learned shows elsewhere."""
    yield preview(denoiser, encoder, concept, template, shape)
    placed = as_recommended(concept)
    first, *_, last = asked("", placed)
    for one in (first, last):
        yield sampled(denoiser, encoder, (placed,), one.text, shape, Sitting())


def preview(
    denoiser: Denoiser, encoder: PromptEncoder, concept: Concept, template: str, shape: Sequence[int]
) -> Tensor:
    """Latents (1, *shape), `shape` as (c, h, w), of `template` with the concept's word at `{}`."""
    composition = (as_recommended(concept),)
    text = template.replace("{}", f"<{composition[0].word}>")
    return sampled(denoiser, encoder, composition, text, shape, Sitting())


@torch.no_grad()
def sampled(
    denoiser: Denoiser,
    encoder: PromptEncoder,
    composition: Composition,
    text: str,
    shape: Sequence[int],
    sitting: Sitting,
) -> Tensor:
    """Latents (1, *shape) of `text` under `composition`, with classifier-free guidance against no text."""
    asked, empty = encoder.encode(text, composition), encoder.encode("", composition)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(sitting.seed)).to(denoiser.device)
    return euler(denoiser, asked, empty, noise, sitting.steps, sitting.guidance, composition)
