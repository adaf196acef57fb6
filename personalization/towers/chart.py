"""The history and how much each of its pictures says about the style: a bar per picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from ..images import image_of, pixels_of

TILE, MARGIN = 96, 8  # pixels
BAR, GROUND, INK = (70, 130, 255), (28, 30, 34), (235, 235, 235)
WIDTH = 3 * TILE  # of a bar that is full
BLOCK = "\u2588"


def chart(pictures: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(1, h, w, 3) in 0..1: each picture (h, w, 3) beside its weight, as long as its share of the largest one."""
    height, width = len(pictures) * (TILE + MARGIN) + MARGIN, TILE + WIDTH + 3 * MARGIN
    image = Image.new("RGB", (width, height), GROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for number, (picture, weight) in enumerate(zip(pictures, weights, strict=True)):
        top, left = MARGIN + number * (TILE + MARGIN), TILE + 2 * MARGIN
        image.paste(_tile(picture), (MARGIN, top))
        length = round(WIDTH * weight / max(*weights, 1e-9))
        draw.rectangle((left, top + TILE // 3, left + max(1, length), top + 2 * TILE // 3), fill=BAR)
        draw.text((left + 4, top + TILE // 3 + 6), f"{weight:.1%}", fill=INK, font=font)
    return pixels_of(image)[None]


def told(weights: Sequence[float]) -> tuple[str, ...]:
    """The same as a line of text per picture."""
    return tuple(
        f"history {number}: {BLOCK * max(1, round(20 * weight / max(*weights, 1e-9)))} {weight:.1%}"
        for number, weight in enumerate(weights, 1)
    )


def _tile(picture: Tensor) -> Image.Image:
    planes = picture.cpu().float().movedim(-1, 0)[None, :3]
    small = F.interpolate(planes, (TILE, TILE), mode="bilinear", antialias=True)[0].movedim(0, -1)
    return image_of(small)
