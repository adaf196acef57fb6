"""E_subject (arXiv 2508.07341): what the image tokens of the training pictures are on average, site by site."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .denoiser import Context, Denoiser, Observation, Observer
from .latents import TrainingLatents
from .sites import Site, grid_of

PERCENTS = (0.3, 0.5, 0.7)  # of sampling: noise levels at which the subject is neither gone nor finished
SEED = 20_250_807


@torch.no_grad()
def subject_means(denoiser: Denoiser, context: Context, latents: TrainingLatents) -> dict[Site, Tensor]:
    """Per site the mean (width,), fp32, of what attn1 reads: over positions in the masks, pictures, noise levels."""
    found: dict[Site, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(SEED)
    for percent in PERCENTS:
        for x0, mask in zip(latents.train, latents.masks, strict=True):
            x0 = x0[None]
            noise = torch.randn(x0.shape, generator=generator)
            sigma = denoiser.sigma_at(torch.tensor([percent])).to(denoiser.device)
            noised = denoiser.add_noise(x0.to(denoiser.device), sigma, noise.to(denoiser.device))

            def see(site: Site, seen: Observation, mask: Tensor = mask) -> None:
                found.setdefault(site, []).append(_mean_inside(seen.hidden[0].float(), mask))

            denoiser.predict(noised, sigma, [context], observer=Observer(see))
    return {site: torch.stack(means).mean(0).cpu() for site, means in found.items()}


def _mean_inside(hidden: Tensor, mask: Tensor) -> Tensor:
    """`hidden` (n, width) of an h x w grid, `mask` (1, H, W) of the same shape at another size."""
    grid = grid_of(len(hidden), (mask.shape[-2], mask.shape[-1]))
    weight = (
        interpolate(mask[None], size=grid, mode="area").flatten().to(hidden) if grid else hidden.new_ones(len(hidden))
    )
    weight = weight if weight.sum() > 0 else hidden.new_ones(len(hidden))
    return (weight / weight.sum()) @ hidden
