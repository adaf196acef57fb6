"""Regions: a concept's rows that only a part of the picture sees.

At a site the concept's rows are appended to the context as extra tokens, and every position weighs the original row
by 1 - m and the concept's by m, where m is the region's mask at that position:

    softmax(q k^T / sqrt d + b),   b = log(1 - m) at the original row,  log m at the appended one

A hard mask gives each position one of the two; with both rows equal it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .indices import indices, moved

Box = tuple[float, float, float, float]  # top, left, bottom, right of the picture, in 0..1
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
Grid = tuple[int, int]  # a site's rows and columns of positions


class Seen(NamedTuple):
    """Row `row` of sample `sample` has a twin that is seen through mask number `mask`."""

    sample: int
    row: int
    mask: int


@dataclass(frozen=True)
class Twins:
    """The appended tokens of one model call: n per sample, padded with twins of row 0 that no position sees."""

    row: Tensor  # (b, n): the original row of each
    mask: Tensor  # (b, n): its mask's number; the last one is empty
    touched: Tensor  # samples that have any
    rest: Tensor  # samples that run as if there were none
    regions: tuple[tuple[Tensor, Box], ...]
    _at: dict[Grid, Tensor] = field(default_factory=dict)

    def widen(self, context: Tensor, edited: Tensor) -> Tensor:
        """The context with the edited rows behind it: (b, tokens + n, d)."""
        samples = torch.arange(context.shape[0], device=context.device)[:, None]
        return torch.cat((context, edited[samples, self.row]), dim=1)

    def bias(self, grid: Grid, tokens: int, like: Tensor) -> Tensor:
        """What is added to the logits of the touched samples: (t, 1, h w, tokens + n)."""
        masks = self._masks(grid)[self.mask[self.touched]]  # (t, n, h w)
        least = torch.finfo(like.dtype).min / 2  # a true infinity makes sliced attention divide 0 by 0
        bias = torch.zeros(masks.shape[0], masks.shape[2], tokens + masks.shape[1], device=like.device)
        rows = self.row[self.touched][:, None].expand(-1, masks.shape[2], -1)  # (t, h w, n)
        bias.scatter_add_(2, rows, (1 - masks).log().clamp(min=least).transpose(1, 2))
        bias[:, :, tokens:] = masks.log().clamp(min=least).transpose(1, 2)
        return bias[:, None].to(like.dtype)

    def _masks(self, grid: Grid) -> Tensor:
        """Every region on this grid, and an empty one: (regions + 1, h w)."""
        if grid not in self._at:
            seen = [on_grid(region, box, grid) for region, box in self.regions]
            self._at[grid] = moved(torch.stack([*seen, torch.zeros(grid)]).flatten(1), self.row.device)
        return self._at[grid]


def twins_of(seen: Sequence[Seen], samples: int, regions: Sequence[tuple[Tensor, Box]], device: torch.device) -> Twins:
    by_sample = [[one for one in seen if one.sample == sample] for sample in range(samples)]
    most = max(map(len, by_sample))
    row = [[one.row for one in own] + [0] * (most - len(own)) for own in by_sample]
    mask = [[one.mask for one in own] + [len(regions)] * (most - len(own)) for own in by_sample]
    touched = [sample for sample, own in enumerate(by_sample) if own]
    rest = [sample for sample, own in enumerate(by_sample) if not own]
    rows, masks = indices(row, device), indices(mask, device)
    return Twins(rows, masks, indices(touched, device), indices(rest, device), tuple(regions))


def on_grid(region: Tensor, box: Box, grid: Grid) -> Tensor:
    """The part of the region's mask that lies in the box, averaged over the cells of the grid."""
    height, width = region.shape[-2:]
    top, left = round(box[0] * height), round(box[1] * width)
    bottom, right = max(top + 1, round(box[2] * height)), max(left + 1, round(box[3] * width))
    inside = region.detach().to("cpu", torch.float32).reshape(-1, height, width)[:1, top:bottom, left:right]
    return interpolate(inside[None], size=grid, mode="area")[0, 0].clamp(0, 1)
