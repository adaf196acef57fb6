"""Augmentation: gentle, seeded views of the training pictures, made before their latents are cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from .buckets import bucket
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
    """The dataset as the denoiser sees it: latents (c, h, w) of each picture's own bucket.

    `train` holds `views` latents of each picture in a row; captions and masks are aligned with it. Masks are (1, h, w)
    at their latents' size, all ones without a mask.
    """

    train: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    captions: tuple[str, ...]
    held_out: tuple[Tensor, ...] = ()
    held_masks: tuple[Tensor, ...] = ()
    data_hash: str = ""

    @cached_property
    def buckets(self) -> tuple[Tensor, ...]:
        """The numbers of the training latents (k,), those of one shape together."""
        return tuple(map(torch.tensor, of_one_shape(self.train)))

    @property
    def largest(self) -> TrainingLatents:
        """With the largest training latents only: what a step needs most memory for."""
        most = max(range(len(self.train)), key=lambda i: self.train[i].numel())
        return replace(self, train=(self.train[most],), masks=(self.masks[most],), captions=(self.captions[most],))


def of_one_shape(latents: Sequence[Tensor]) -> list[list[int]]:
    """Their numbers, those of one shape together, in the order in which the shapes come."""
    groups: dict[torch.Size, list[int]] = {}
    for number, one in enumerate(latents):
        groups.setdefault(one.shape, []).append(number)
    return list(groups.values())


def training_latents(
    dataset: ConceptDataset, side: int, augmentation: Augmentation, seed: int, encode: Encode
) -> TrainingLatents:
    """Views of `dataset` for a model trained at `side` x `side`, through `encode` one picture at a time."""
    generator = torch.Generator().manual_seed(seed)
    pictures = dataset.training
    views = [one for picture in pictures for one in views_of(picture, side, augmentation, generator)]
    held = [view(picture, bucket(picture.size, side)) for picture in dataset.holdout]
    train, held_out = _encoded(views, encode), _encoded(held, encode)
    captions = tuple(picture.caption for picture in pictures for _ in range(augmentation.views))
    return TrainingLatents(
        train, _masks(views, train), captions, held_out, _masks(held, held_out), data_hash=dataset.hash
    )


def _encoded(views: list[View], encode: Encode) -> tuple[Tensor, ...]:
    latents = tuple(encode(one.pixels[None]).float().cpu()[0] for one in views)
    if not all(bool(one.isfinite().all()) for one in latents):
        raise PictureError(
            "The VAE turned a picture into NaN or infinity; finite latents are needed. "
            "Start ComfyUI with --fp32-vae, or load a VAE that works in half precision (sdxl-vae-fp16-fix)."
        )
    return latents


def views_of(picture: Picture, side: int, augmentation: Augmentation, generator: Generator) -> list[View]:
    """The plain view, then jittered ones; the same generator state gives the same views."""
    size = bucket(picture.size, side)
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


def _masks(views: list[View], latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The share of each latent position that shows the subject."""
    return tuple(_at_latents(one.mask, its.shape[-2:]) for one, its in zip(views, latents, strict=True))


def _at_latents(mask: Tensor | None, size: torch.Size) -> Tensor:
    if mask is None:
        return torch.ones(1, *size)
    return torch.nn.functional.interpolate(mask[None, None], tuple(size), mode="area")[0]
