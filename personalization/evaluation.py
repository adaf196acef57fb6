"""Evaluation: scores on pictures that were never trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .composition import Composition
from .denoiser import Context, Denoiser
from .latents import TrainingLatents, of_one_shape
from .objectives import denoising_loss, soft_mask
from .recipe import Recipe

PERCENTS = (0.2, 0.4, 0.6, 0.8)  # of sampling: from layout to detail
SEED = 20_250_807  # the same noises for every seed, so that runs can be compared


class Noised(NamedTuple):
    """Fixed noised copies of the held-out latents of one shape, ordered by sigma: (sigmas * pictures, c, h, w)."""

    x0: Tensor
    noised: Tensor
    sigma: Tensor
    mask: Tensor


class HeldOut(NamedTuple):
    """All of them, bucket by bucket."""

    buckets: tuple[Noised, ...]

    @property
    def samples(self) -> int:
        return sum(len(one.x0) for one in self.buckets)


def held_out_of(latents: TrainingLatents, denoiser: Denoiser, recipe: Recipe) -> HeldOut:
    """Each held-out latent at each of PERCENTS, with fixed noise, on the denoiser's device."""
    generator = torch.Generator().manual_seed(SEED)

    def noised(numbers: list[int]) -> Noised:
        x0, mask = (torch.stack([every[i] for i in numbers]) for every in (latents.held_out, latents.held_masks))
        x0 = x0.repeat(len(PERCENTS), 1, 1, 1).to(denoiser.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        sigma = denoiser.sigma_at(torch.tensor(PERCENTS).repeat_interleave(len(numbers))).to(x0)
        mask = soft_mask(mask, recipe.outside_mask).repeat(len(PERCENTS), 1, 1, 1).to(x0)
        return Noised(x0, denoiser.add_noise(x0, sigma, noise), sigma, mask)

    return HeldOut(tuple(map(noised, of_one_shape(latents.held_out))))


@torch.no_grad()
def held_out_losses(
    held: HeldOut, denoiser: Denoiser, context: Context, composition: Composition, batch_size: int
) -> Tensor:
    """The denoising loss at each of PERCENTS (4,), on the CPU, `batch_size` samples at a time."""

    def losses(bucket: Noised) -> Tensor:
        found = []
        for x0, noised, sigma, mask in zip(*(part.split(batch_size) for part in bucket), strict=True):
            denoised = denoiser.predict(noised, sigma, [context] * len(sigma), composition)
            found.append(denoising_loss(denoised, x0, denoiser.loss_weight(sigma), mask))
        return torch.cat(found).view(len(PERCENTS), -1)

    return torch.cat([losses(one) for one in held.buckets], 1).mean(1).cpu()
