"""Thumbnails: a picture (1, h, w, 3) in 0..1 as people and files have it."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .images import image_of, pixels_of

SIDE = 512  # pixels


def jpeg_of(picture: Tensor) -> bytes:
    stream = io.BytesIO()
    image_of(picture[0]).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def small(picture: Tensor) -> Tensor:
    """At most SIDE pixels each way: a file's header, which it stands in twice, must stay small."""
    scale = SIDE / max(picture.shape[1:3])
    if scale >= 1:
        return picture
    planes = F.interpolate(picture.float().movedim(-1, 1), scale_factor=scale, mode="bilinear", antialias=True)
    return planes.movedim(1, -1)


def picture_from(jpeg: bytes) -> Tensor:
    """One grey pixel where there is no thumbnail."""
    if not jpeg:
        return torch.full((1, 1, 1, 3), 0.5)
    return pixels_of(Image.open(io.BytesIO(jpeg)))[None]
