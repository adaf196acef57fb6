"""Previews: a quick picture of what a concept is by now, sampled with what training already holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .composition import PlacedConcept
from .concept import Concept
from .denoiser import Denoiser, PromptEncoder
from .sampling import sampled

STEPS = 10
GUIDANCE = 4.0
PREDICTIONS = 2 * STEPS
SEED = 7  # the same noise every time, so that previews can be compared


@torch.no_grad()
def preview(
    denoiser: Denoiser, encoder: PromptEncoder, concept: Concept, template: str, shape: Sequence[int]
) -> Tensor:
    """Latents (1, *shape), `shape` as (c, h, w), of `template` with the concept's word at `{}`."""
    composition = (PlacedConcept(concept),)
    asked = encoder.encode(template.replace("{}", f"<{composition[0].word}>"), composition)
    empty = encoder.encode("", composition)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(SEED)).to(denoiser.device)
    return sampled(denoiser, asked, empty, noise, STEPS, GUIDANCE, composition)
