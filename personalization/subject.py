"""What masks tell of the subject: too small, cut off by the picture's edge, or always at one place in one size."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .dataset import ConceptDataset
from .finding import FEW, Finding, finding_on
from .pictures import Picture

SMALL = 0.06  # of the picture's area
ALONG = 0.15  # of an edge that the subject touches
STILL = 0.04  # of the picture's sides, the spread of the subject's centre
SAME_SIZE = 0.08  # spread of the logarithm of its height and width


class Extent(NamedTuple):
    """A mask's box as shares of the picture; `area` is what is white, `edges` how many edges it runs along."""

    row: float
    column: float
    height: float
    width: float
    area: float
    edges: int


def extent(picture: Picture) -> Extent | None:
    """None without a mask or with an empty one."""
    if picture.mask is None or not bool((picture.mask > 127).any()):
        return None
    white = picture.mask > 127
    places = white.nonzero().float()
    low, high = places.amin(0), places.amax(0) + 1
    (row, column), (height, width) = ((low + high) / 2).tolist(), (high - low).tolist()
    rows, columns = picture.size
    sides = (white[0], white[-1], white[:, 0], white[:, -1])
    edges = sum(bool(side.float().mean() > ALONG) for side in sides)
    return Extent(row / rows, column / columns, height / rows, width / columns, float(white.float().mean()), edges)


def small(dataset: ConceptDataset) -> Finding | None:
    return finding_on(
        "small",
        [picture for picture in dataset.pictures if (found := extent(picture)) and found.area < SMALL],
        f"The subject fills less than {SMALL:.0%} of the picture, so little of it is learned: {{}}. "
        "Crop closer around it.",
    )


def cropped(dataset: ConceptDataset) -> Finding | None:
    """A mask along three or four edges is a close-up or a scene."""
    return finding_on(
        "cropped",
        [picture for picture in dataset.pictures if (found := extent(picture)) and found.edges in (1, 2)],
        "The picture's edge cuts the subject off: {}. Take pictures that show it whole; a bust may stay.",
    )


def one_place(dataset: ConceptDataset) -> Finding | None:
    masked = [(picture, found) for picture in dataset.pictures if (found := extent(picture)) and found.edges < 3]
    if len(masked) < FEW:
        return None
    row, column, height, width, *_ = torch.tensor([found for _, found in masked]).T
    moved = max(float(row.std()), float(column.std()))
    grown = max(float(height.log().std()), float(width.log().std()))
    if moved >= STILL or grown >= SAME_SIZE:
        return None
    return finding_on(
        "pose",
        [picture for picture, _ in masked],
        "The subject stands at the same place in the same size, which is learned with it: {}. "
        "Add pictures from other distances and sides, or crop some closer.",
    )
