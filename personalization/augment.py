"""Augmentation: gentle, seeded views of the training pictures, made before their latents are cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .dataset import Box, ConceptDataset, View, fitting_box, view
from .pictures import Picture, PictureError

Encode = Callable[[Tensor], Tensor]  # pictures (n, h, w, 3) in 0..1 -> latents (n, c, h / 8, w / 8)


@dataclass(frozen=True)
class Augmentation:
    """`views` per picture, the first one plain; the others cropped by up to `zoom` and mirrored with `flip`.

    Every crop lies inside the plain one, so there are no black corners to learn.
    """

    views: int = 1
    zoom: float = 0.15
    flip: float = 0.0  # lettering and asymmetric things must not be mirrored


@dataclass(frozen=True)
class TrainingLatents:
    """The dataset as the denoiser sees it. Masks are (n, 1, h, w) at the latents' size, all ones without a mask.

    `train` (n, c, h, w) holds `views` latents of each picture in a row; captions and masks are aligned with it.
    """

    train: Tensor
    masks: Tensor
    captions: tuple[str, ...]
    held_out: Tensor  # (m, c, h, w), m may be 0
    held_masks: Tensor
    data_hash: str = ""


def training_latents(
    dataset: ConceptDataset, size: tuple[int, int], augmentation: Augmentation, seed: int, encode: Encode
) -> TrainingLatents:
    """Views of `dataset` at `size` (height, width), through `encode` one picture at a time."""
    generator = torch.Generator().manual_seed(seed)
    pictures = dataset.training
    views = [one for picture in pictures for one in views_of(picture, size, augmentation, generator)]
    held = [view(picture, size) for picture in dataset.holdout]
    train = _encoded(views, encode)
    held_out = _encoded(held, encode) if held else train[:0]
    captions = tuple(picture.caption for picture in pictures for _ in range(augmentation.views))
    return TrainingLatents(
        train, _masks(views, train), captions, held_out, _masks(held, held_out), data_hash=dataset.hash
    )


def _encoded(views: list[View], encode: Encode) -> Tensor:
    latents = torch.cat([encode(one.pixels[None]).float().cpu() for one in views])
    if not bool(latents.isfinite().all()):
        raise PictureError(
            "The VAE turned a picture into NaN or infinity; finite latents are needed. "
            "Start ComfyUI with --fp32-vae, or load a VAE that works in half precision (sdxl-vae-fp16-fix)."
        )
    return latents


def views_of(picture: Picture, size: tuple[int, int], augmentation: Augmentation, generator: Generator) -> list[View]:
    """The plain view, then jittered ones; the same generator state gives the same views."""
    jittered = (_jittered(picture, size, augmentation, generator) for _ in range(augmentation.views - 1))
    return [view(picture, size), *jittered]


def _jittered(picture: Picture, size: tuple[int, int], augmentation: Augmentation, generator: Generator) -> View:
    zoom, row, column, flip = torch.rand(4, generator=generator).tolist()
    box = _inside(fitting_box(picture, size), size, augmentation.zoom * zoom, (row, column))
    shown = view(picture, size, box)
    return mirrored(shown) if flip < augmentation.flip else shown


def _inside(box: Box, size: tuple[int, int], zoom: float, place: tuple[float, float]) -> Box:
    """A crop smaller by `zoom` at `place` (0..1) inside `box`, no smaller than the training size where it can."""
    least = min(1.0, size[0] / box.height)
    scale = max(1 - zoom, least)
    height, width = max(1, int(box.height * scale)), max(1, int(box.width * scale))
    top, left = box.top + round(place[0] * (box.height - height)), box.left + round(place[1] * (box.width - width))
    return Box(top, left, height, width)


def mirrored(shown: View) -> View:
    return View(shown.pixels.flip(1), None if shown.mask is None else shown.mask.flip(1))


def _masks(views: list[View], latents: Tensor) -> Tensor:
    """(n, 1, h, w): the share of each latent position that shows the subject."""
    size = latents.shape[-2:]
    masks = [_at_latents(one.mask, size) for one in views]
    return torch.stack(masks) if masks else torch.ones(0, 1, *size)


def _at_latents(mask: Tensor | None, size: torch.Size) -> Tensor:
    if mask is None:
        return torch.ones(1, *size)
    return torch.nn.functional.interpolate(mask[None, None], tuple(size), mode="area")[0]
