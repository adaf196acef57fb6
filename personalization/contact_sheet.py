"""The contact sheet: what will be learned from, at a glance. Crop, mask and split of every picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .dataset import ConceptDataset, View, view
from .pictures import Picture

SHEET = 1536  # pixels at most across
TILE = 512  # what SD 1.5 trains at; every square training size takes the same crop
LEAST = 64
SHADE = torch.tensor((0.85, 0.15, 0.3))  # over what the mask leaves out, as retouchers' masks are shown
SHADED = 0.6
HELD_OUT = (70, 130, 255)


def contact_sheet(dataset: ConceptDataset) -> Tensor:
    """(1, h, w, 3) in 0..1: the plain view of each picture by name, the held-out ones last, framed and labelled."""
    columns = math.ceil(math.sqrt(len(dataset.pictures)))
    side = max(LEAST, min(TILE, SHEET // columns) // 8 * 8)
    tiles = [_tile(picture, side) for picture in _by_name(dataset.training)]
    tiles += [_marked(_tile(picture, side)) for picture in _by_name(dataset.holdout)]
    empty = torch.zeros(side, side, 3)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    rows[-1] += [empty] * (columns - len(rows[-1]))
    return torch.cat([torch.cat(row, 1) for row in rows])[None]


def _by_name(pictures: tuple[Picture, ...]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: picture.name)


def _tile(picture: Picture, side: int) -> Tensor:
    return shaded(view(picture, (side, side)))


def shaded(shown: View) -> Tensor:
    """(h, w, 3): `shown` with a colour over what its mask leaves out."""
    if shown.mask is None:
        return shown.pixels
    return shown.pixels.lerp(SHADE, SHADED * (1 - shown.mask[..., None]))


def _marked(tile: Tensor) -> Tensor:
    image = Image.fromarray((tile * 255).round().byte().numpy())
    draw, side = ImageDraw.Draw(image), image.width
    font = ImageFont.load_default(max(10, side // 12))
    draw.rectangle((0, 0, side - 1, side - 1), outline=HELD_OUT, width=max(2, side // 40))
    draw.rectangle(draw.textbbox((side // 20, side // 20), "held out", font=font), fill=HELD_OUT)
    draw.text((side // 20, side // 20), "held out", fill="white", font=font)
    return torch.from_numpy(np.array(image)).float() / 255
