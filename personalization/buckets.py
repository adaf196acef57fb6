"""Aspect-ratio buckets: a picture is learned in its own shape, as far as a model's sizes allow.

As in SDXL (Podell et al., arXiv 2307.01952, section 2.3): sides are multiples of 64 pixels, the area is about that of
the square that the model was trained at. Nothing is enlarged: of a small picture the bucket is smaller too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

STEP = 64  # pixels
LONGEST = 2.5  # times the shorter side; SDXL's go to 4, where hardly anything was trained


def bucket(picture: tuple[int, int], side: int) -> tuple[int, int]:
    """Training size (height, width) for a picture of that size, on a model trained at `side` x `side`.

    Of the largest that the picture fills, the one that cuts the least away; only a picture below 64 pixels is enlarged.
    """
    aspect = picture[0] / picture[1]
    return min(_largest(picture, side), key=lambda one: (abs(math.log(one[0] / one[1] / aspect)), -one[0] * one[1]))


def _largest(picture: tuple[int, int], side: int) -> Iterator[tuple[int, int]]:
    """Buckets that neither the picture nor the model lets grow in any direction."""
    tallest, widest = (max(STEP, edge // STEP * STEP) for edge in picture)
    for height in range(STEP, min(tallest, int(side * LONGEST)) + 1, STEP):
        width = min(widest, max(STEP, side * side // height // STEP * STEP), int(height * LONGEST) // STEP * STEP)
        taller = height + STEP
        if height > LONGEST * width or height * width > side * side:
            continue
        if taller > tallest or taller > LONGEST * width or taller * width > side * side:
            yield height, width
