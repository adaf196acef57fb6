"""What repeats from picture to picture: lines at one place in all of them, and copies that lie on their side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .dataset import TWIN_BITS, ConceptDataset, colours, dhash, same_colours, view
from .finding import FEW, Finding, finding_on
from .pictures import Picture

SIDE = 64
HASHED = 72  # divisible by dHash's 8 and 9
STEEP = 0.04  # of full contrast from one pixel to the next
LEAST = 4  # pictures: lines of three unlike ones meet by chance
# Of all places. In 40 drawn sets of four unlike pictures up to 0.005 agreed by chance; with one pose 0.024 and more,
# with a line of lettering 0.035 at the median. Not measured on photographs.
SHARE = 0.008
WITHOUT = 0.35  # of what agrees without any one picture; where one of 4 to 8 lacked the mark 0.31 at most was left
RIM = 0.2  # of the side: where marks are put


def same_lines(unlike: Sequence[Picture]) -> Finding | None:
    """A mark on all pictures, or one pose: edges that run the same way at the same place in every picture.

    The idea of Dekel et al. (CVPR 2017), "On the Effectiveness of Visible Watermarks": what is on all pictures
    survives where gradients are compared from picture to picture. A white mark on white is not seen. `unlike` are
    pictures without near-duplicates and without those that may lie on their side.
    """
    if len(unlike) < LEAST:
        return None
    same = _everywhere(torch.stack([_gradients(picture) for picture in unlike]))
    rim = int(RIM * SIDE)
    middle = float(same[rim:-rim, rim:-rim].sum()) / same.numel()
    around = float(same.float().mean()) - middle
    if middle > SHARE and sum(picture.mask is not None for picture in unlike) < FEW:  # else subject.py tells
        return finding_on(
            "pose",
            unlike,
            "In the middle of all pictures the same lines stand at the same place: one pose and scale, or a mark over "
            "all of them, will be learned with the subject ({}). Add other views, or take the mark away.",
        )
    if middle <= SHARE < around:
        return finding_on(
            "watermark",
            unlike,
            "Near the edge of all pictures the same lines stand at the same place: a watermark, a date, lettering or "
            "a frame will be learned with the subject ({}). Take it away, or crop it off.",
        )
    return None


def turned(lying: Sequence[Picture]) -> Finding | None:
    return finding_on(
        "turned",
        lying,
        "One of these is another one turned on its side or upside down: {}. Turn them upright, and keep one of each.",
    )


def turned_ones(dataset: ConceptDataset) -> set[int]:
    """All of pairs of which one, turned by a quarter or a half, is the other. Nothing else tells up from down here."""
    sides = [_sides(picture) for picture in dataset.pictures]
    pairs = combinations(range(len(sides)), 2)
    return {i for pair in pairs if _turned(sides[pair[0]], sides[pair[1]][0]) for i in pair}


class _Side(NamedTuple):
    """What is compared of a picture that is turned to this side."""

    bits: Tensor
    colours: Tensor


def _sides(picture: Picture) -> list[_Side]:
    """By no, one, two and three quarters; all look at a tiny copy, so that large photographs are read once."""
    pixels = picture.pixels.permute(2, 0, 1)[None].float()
    tiny = F.interpolate(pixels, (HASHED, HASHED), mode="area")[0].permute(1, 2, 0)
    return [_Side(dhash(turned), colours(turned)) for turned in (tiny.rot90(times) for times in range(4))]


def _turned(one: Sequence[_Side], other: _Side) -> bool:
    apart = [int((side.bits != other.bits).sum()) for side in one]
    near = [side for side, bits in zip(one, apart, strict=True) if bits <= TWIN_BITS]
    return apart[0] > TWIN_BITS and any(same_colours(side.colours, other.colours) for side in near)


def _gradients(picture: Picture) -> Tensor:
    """(2, SIDE - 2, SIDE - 2): central differences of the grey square, along columns and rows."""
    grey = view(picture, (SIDE, SIDE)).pixels.mean(-1)
    return torch.stack((grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1])) / 2


def _everywhere(gradients: Tensor) -> Tensor:
    """What all share, none of it where one picture lacks most of what the others share."""
    same, count = _shared(gradients), len(gradients)
    others = (_shared(gradients[torch.arange(count) != left]).sum() for left in range(count))
    return same & (same.sum() >= WITHOUT * torch.stack(list(others)).max())


def _shared(gradients: Tensor) -> Tensor:
    """(n, 2, h, w) -> (h, w): where all pictures have an edge of the same direction."""
    return ((gradients > STEEP).all(0) | (gradients < -STEEP).all(0)).any(0)
