"""Style-perturbed copies: the same meaning in another look, so that triplets need no labels (DRC, arXiv 2504.17349).

The paper's list of augmentations is unknown; ours: colours of another picture, tone, blur, texture, paper and
edge-preserving smoothing. Nothing is moved, mirrored or cut, for that may change the meaning.
Pictures are (h, w, 3) in 0..1; every choice comes from the generator.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

CHANGES = 2  # besides the colours


def restyled(picture: Tensor, colours_of: Tensor, generator: Generator) -> Tensor:
    """`picture` with the colours of another one and two changes of texture or tone."""
    changed = picture.lerp(_recoloured(picture, colours_of), _between(0.6, 1.0, generator))
    for number in torch.randperm(len(KINDS), generator=generator)[:CHANGES].tolist():
        changed = KINDS[number](changed.clamp(0, 1), generator)
    return changed.clamp(0, 1)


def _recoloured(picture: Tensor, other: Tensor) -> Tensor:
    """Reinhard et al. 2001: mean and spread of each channel of the other picture, here in RGB."""
    mean, spread = (picture.mean((0, 1)), picture.std((0, 1))), (other.mean((0, 1)), other.std((0, 1)))
    return (picture - mean[0]) / mean[1].clamp_min(1e-3) * spread[1] + spread[0]


def _toned(picture: Tensor, generator: Generator) -> Tensor:
    """Gamma, contrast and saturation."""
    gamma, contrast, saturation = (_between(*limits, generator) for limits in ((0.6, 1.7), (0.6, 1.3), (0.2, 1.6)))
    grey = picture.mean(-1, keepdim=True)
    toned = (grey + saturation * (picture - grey)).clamp(0, 1) ** gamma
    return toned.mean() + contrast * (toned - toned.mean())


def _blurred(picture: Tensor, generator: Generator) -> Tensor:
    radius = max(1, round(_between(0.005, 0.02, generator) * picture.shape[0]))
    return _mean_around(_mean_around(picture, radius), radius)


def _hatched(picture: Tensor, generator: Generator) -> Tensor:
    """Lines of one direction, stronger where it is dark, as a pen draws them."""
    angle, lines = _between(0, torch.pi, generator), _between(12, 30, generator)
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in picture.shape[:2]), indexing="ij")
    phase = torch.cos(torch.tensor(angle)) * x + torch.sin(torch.tensor(angle)) * y
    wave = 0.5 + 0.5 * torch.sin(2 * torch.pi * lines * phase)[..., None]
    return picture - _between(0.2, 0.5, generator) * wave * (1 - picture.mean(-1, keepdim=True))


def _papered(picture: Tensor, generator: Generator) -> Tensor:
    """Fine grain and coarse blotches, the same in all colours."""
    height, width = picture.shape[:2]
    grain = torch.randn(1, 1, height, width, generator=generator)
    coarse = torch.randn(1, 1, max(2, height // 8), max(2, width // 8), generator=generator)
    blotches = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return picture * (1 + _between(0.04, 0.12, generator) * (grain + blotches)[0, 0, ..., None])


def _smoothed(picture: Tensor, generator: Generator) -> Tensor:
    """He et al. 2013, guided filter with the picture as its own guide: flat places become flat, edges stay."""
    radius, eps = max(1, round(0.03 * picture.shape[0])), _between(0.01, 0.04, generator)
    mean = _mean_around(picture, radius)
    variance = _mean_around(picture.square(), radius) - mean.square()
    a = variance / (variance + eps)
    return _mean_around(a, radius) * picture + _mean_around((1 - a) * mean, radius)


KINDS = (_toned, _blurred, _hatched, _papered, _smoothed)


def _mean_around(picture: Tensor, radius: int) -> Tensor:
    """The mean over a square of 2 radius + 1, edges repeated."""
    planes = F.pad(picture.movedim(-1, 0)[None], [radius] * 4, mode="replicate")
    return F.avg_pool2d(planes, 2 * radius + 1, 1)[0].movedim(0, -1)


def _between(least: float, most: float, generator: Generator) -> float:
    return least + (most - least) * float(torch.rand((), generator=generator))
