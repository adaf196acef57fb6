"""Evaluation: scores on pictures that were never trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .augment import TrainingLatents
from .composition import Composition
from .denoiser import Context, Denoiser
from .objectives import denoising_loss, soft_mask
from .recipe import Recipe

PERCENTS = (0.2, 0.4, 0.6, 0.8)  # of sampling: from layout to detail
SEED = 20_250_807  # the same noises for every seed, so that runs can be compared


@dataclass(frozen=True)
class HeldOut:
    """Fixed noised copies of the held-out latents, ordered by sigma: (sigmas * pictures, c, h, w)."""

    x0: Tensor
    noised: Tensor
    sigma: Tensor
    mask: Tensor

    @property
    def samples(self) -> int:
        return len(self.x0)


def held_out_of(latents: TrainingLatents, denoiser: Denoiser, recipe: Recipe) -> HeldOut:
    """Each held-out latent at each of PERCENTS, with fixed noise, on the denoiser's device."""
    count, times = len(latents.held_out), len(PERCENTS)
    generator = torch.Generator().manual_seed(SEED)
    x0 = latents.held_out.repeat(times, 1, 1, 1).to(denoiser.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    sigma = denoiser.sigma_at(torch.tensor(PERCENTS).repeat_interleave(count)).to(x0)
    mask = soft_mask(latents.held_masks, recipe.outside_mask).repeat(times, 1, 1, 1).to(x0)
    return HeldOut(x0, denoiser.add_noise(x0, sigma, noise) if count else x0, sigma, mask)


@torch.no_grad()
def held_out_losses(
    held: HeldOut, denoiser: Denoiser, context: Context, composition: Composition, batch_size: int
) -> Tensor:
    """The denoising loss at each of PERCENTS (4,), on the CPU, `batch_size` samples at a time."""
    losses = []
    for start in range(0, held.samples, batch_size):
        part = slice(start, start + batch_size)
        sigma = held.sigma[part]
        denoised = denoiser.predict(held.noised[part], sigma, [context] * len(sigma), composition)
        losses.append(denoising_loss(denoised, held.x0[part], denoiser.loss_weight(sigma), held.mask[part]))
    return torch.cat(losses).view(len(PERCENTS), -1).mean(1).cpu()
