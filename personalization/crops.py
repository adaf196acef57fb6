"""Crops: the thing cut out of its picture, so that an image encoder compares things, or what is left, settings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .dataset import Box

INSIDE = 0.5  # of a mask, from which a place belongs to the thing
GREY = 0.5


def cut_out(pictures: Tensor, masks: Tensor) -> Tensor:
    """Pictures (n, h, w, 3) and masks (n, 1, any, any), both in 0..1 -> the things over grey, (n, s, s, 3).

    Each is cropped to the square around what its mask holds and brought to one side, s = min(h, w). A mask that holds
    nothing leaves its picture whole.
    """
    if not len(pictures):
        return pictures
    fitted = _fitted(masks, pictures)
    return torch.stack([_cut(*pair) for pair in zip(pictures, fitted, strict=True)])


def surroundings(pictures: Tensor, masks: Tensor) -> Tensor:
    """Pictures (n, h, w, 3) with grey where masks (n, 1, any, any) say that the thing is."""
    if not len(pictures):
        return pictures
    inside = _fitted(masks, pictures)[..., None] > INSIDE
    return torch.where(inside, torch.full_like(pictures, GREY), pictures)


def _fitted(masks: Tensor, pictures: Tensor) -> Tensor:
    """(n, h, w)."""
    return interpolate(masks.to(pictures), (pictures.shape[1], pictures.shape[2]), mode="bilinear")[:, 0]


def _cut(picture: Tensor, mask: Tensor) -> Tensor:
    side = min(mask.shape)
    if not bool((mask > INSIDE).any()):
        mask = torch.ones_like(mask)
    box = square_around(mask)
    over = picture.lerp(torch.full_like(picture, GREY), 1 - mask[..., None])
    crop = over[box.top : box.top + box.height, box.left : box.left + box.width].permute(2, 0, 1)[None]
    return interpolate(crop, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def square_around(mask: Tensor) -> Box:
    """The smallest square inside the picture that holds where `mask` (h, w) is above INSIDE, as far as one can."""
    rows, columns = ((mask > INSIDE).any(way).nonzero()[:, 0] for way in (1, 0))
    (top, bottom), (left, right) = ((int(one[0]), int(one[-1]) + 1) for one in (rows, columns))
    side = min(max(bottom - top, right - left), *mask.shape)
    row, column = ((low + high - side) // 2 for low, high in ((top, bottom), (left, right)))
    height, width = mask.shape
    return Box(min(max(row, 0), height - side), min(max(column, 0), width - side), side, side)
