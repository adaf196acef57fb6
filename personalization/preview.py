"""Previews: a quick picture of what a concept is by now, sampled with what training already holds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .composition import PlacedConcept
from .concept import Concept
from .denoiser import Denoiser, PromptEncoder

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
    contexts = [asked, encoder.encode("", composition)]
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(SEED)).to(denoiser.device)
    sigmas = denoiser.sigma_at(torch.linspace(0, 1, STEPS + 1)).to(noise)
    x = denoiser.add_noise(torch.zeros_like(noise), sigmas[:1], noise)
    for sigma, lower in pairwise(sigmas):
        good, bad = denoiser.predict(x.repeat(2, 1, 1, 1), sigma.repeat(2), contexts, composition).chunk(2)
        denoised = bad + GUIDANCE * (good - bad)
        x = denoised + (x - denoised) * (lower / sigma)  # Euler, as in k-diffusion
    return denoised
