"""A short Euler sampler over what training holds: for previews and for pictures of the class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .composition import Composition
from .denoiser import Context, Denoiser


@torch.no_grad()
def euler(
    denoiser: Denoiser,
    asked: Context,
    empty: Context,
    noise: Tensor,
    steps: int,
    guidance: float,
    composition: Composition = (),
) -> Tensor:
    """Latents (b, c, h, w) from unit `noise` of that shape, with classifier-free guidance; Euler as in k-diffusion."""
    count = len(noise)
    contexts: Sequence[Context] = [asked] * count + [empty] * count
    sigmas = denoiser.sigma_at(torch.linspace(0, 1, steps + 1)).to(noise)
    x = denoiser.add_noise(torch.zeros_like(noise), sigmas[:1].expand(count), noise)
    denoised = x
    for sigma, lower in pairwise(sigmas):
        doubled = x.repeat(2, 1, 1, 1)
        good, bad = denoiser.predict(doubled, sigma.repeat(2 * count), contexts, composition).chunk(2)
        denoised = bad + guidance * (good - bad)
        x = denoised + (x - denoised) * (lower / sigma)
    return denoised
