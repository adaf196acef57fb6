"""The contact sheet: what will be learned from, at a glance. Crop, mask and split of every picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from .buckets import bucket
from .dataset import ConceptDataset, View, view
from .images import image_of, pixels_of
from .latents import TrainingLatents
from .pictures import Picture

SHEET = 1536  # pixels at most across
TILE = 512  # what SD 1.5 trains at; other sizes take nearly the same crop
LEAST = 64
SHADE = torch.tensor((0.85, 0.15, 0.3))  # over what the mask leaves out, as retouchers' masks are shown
SHADED = 0.6
HELD_OUT = (70, 130, 255)


class Shown(NamedTuple):
    picture: Picture
    mask: Tensor | None = None  # (1, h, w) of its crop, at any size, instead of its own
    held_out: bool = False


def contact_sheet(dataset: ConceptDataset) -> Tensor:
    """(1, h, w, 3) in 0..1: the plain view of each picture by name, the held-out ones last, framed and labelled."""
    return _sheet([Shown(one) for one in dataset.training] + [Shown(one, held_out=True) for one in dataset.holdout])


def masks_sheet(dataset: ConceptDataset, latents: TrainingLatents) -> Tensor:
    """The same sheet under the masks that learning uses, which may be soft ones."""
    training = zip(dataset.training, latents.masks, strict=True)
    holdout = zip(dataset.holdout, latents.held_masks, strict=True)
    return _sheet([Shown(*one) for one in training] + [Shown(*one, True) for one in holdout])


def _sheet(shown: Sequence[Shown]) -> Tensor:
    columns = math.ceil(math.sqrt(len(shown)))
    side = max(LEAST, min(TILE, SHEET // columns) // 8 * 8)
    ordered = sorted(shown, key=lambda one: (one.held_out, one.picture.name))
    tiles = [_marked(_tile(one, side)) if one.held_out else _tile(one, side) for one in ordered]
    empty = torch.zeros(side, side, 3)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    rows[-1] += [empty] * (columns - len(rows[-1]))
    return torch.cat([torch.cat(row, 1) for row in rows])[None]


def _tile(shown: Shown, side: int) -> Tensor:
    """The crop in the middle of a square tile."""
    shape = bucket(shown.picture.size, TILE)
    height, width = (max(8, round(side * edge / max(shape) / 8) * 8) for edge in shape)
    plain = view(shown.picture, (height, width))
    if shown.mask is not None:
        plain = View(plain.pixels, interpolate(shown.mask[None], (height, width), mode="bilinear")[0, 0])
    tile, top, left = torch.zeros(side, side, 3), (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = shaded(plain)
    return tile


def shaded(shown: View) -> Tensor:
    """(h, w, 3): `shown` with a colour over what its mask leaves out."""
    if shown.mask is None:
        return shown.pixels
    return shown.pixels.lerp(SHADE, SHADED * (1 - shown.mask[..., None]))


def _marked(tile: Tensor) -> Tensor:
    image = image_of(tile)
    draw, side = ImageDraw.Draw(image), image.width
    font = ImageFont.load_default(max(10, side // 12))
    draw.rectangle((0, 0, side - 1, side - 1), outline=HELD_OUT, width=max(2, side // 40))
    draw.rectangle(draw.textbbox((side // 20, side // 20), "held out", font=font), fill=HELD_OUT)
    draw.text((side // 20, side // 20), "held out", fill="white", font=font)
    return pixels_of(image)
