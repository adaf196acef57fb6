"""What the denoiser trains on: each picture in its own bucket, as latents, under its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .buckets import bucket
from .dataset import ConceptDataset, View, view
from .pictures import PictureError

Encode = Callable[[Tensor], Tensor]  # pictures (n, h, w, 3) in 0..1 -> latents (n, c, h / 8, w / 8)


@dataclass(frozen=True)
class TrainingLatents:
    """The dataset as the denoiser sees it: latents (c, h, w) of each picture's own bucket.

    Captions and masks are aligned with `train`. Masks are (1, h, w) at their latents' size, all ones without a mask.
    """

    train: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    captions: tuple[str, ...]
    held_out: tuple[Tensor, ...] = ()
    held_masks: tuple[Tensor, ...] = ()
    data_hash: str = ""  # of pixels, masks and split: whoever captions them, the pictures are the same

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


def training_latents(dataset: ConceptDataset, side: int, encode: Encode) -> TrainingLatents:
    """`dataset` for a model trained at `side` x `side`, through `encode` one picture at a time."""
    pictures = dataset.training
    shown, held = ([view(one, bucket(one.size, side)) for one in group] for group in (pictures, dataset.holdout))
    train, held_out = _encoded(shown, encode), _encoded(held, encode)
    captions = tuple(picture.caption for picture in pictures)
    return TrainingLatents(
        train, _masks(shown, train), captions, held_out, _masks(held, held_out), data_hash=dataset.uncaptioned.hash
    )


def _encoded(views: list[View], encode: Encode) -> tuple[Tensor, ...]:
    latents = tuple(encode(one.pixels[None]).float().cpu()[0] for one in views)
    if not all(bool(one.isfinite().all()) for one in latents):
        raise PictureError(
            "The VAE turned a picture into NaN or infinity; finite latents are needed. "
            "Start ComfyUI with --fp32-vae, or load a VAE that works in half precision (sdxl-vae-fp16-fix)."
        )
    return latents


def _masks(views: list[View], latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The share of each latent position that shows the subject."""
    return tuple(_at_latents(one.mask, its.shape[-2:]) for one, its in zip(views, latents, strict=True))


def _at_latents(mask: Tensor | None, size: torch.Size) -> Tensor:
    if mask is None:
        return torch.ones(1, *size)
    return torch.nn.functional.interpolate(mask[None, None], tuple(size), mode="area")[0]
