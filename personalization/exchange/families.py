"""The families whose files are known from outside: where their sites are, without a checkpoint at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..concept import Base
from ..sites import Site, SiteShape


def known_bases() -> tuple[Base, ...]:
    """A base per family, without the weights' fingerprint and the prediction: a file of others tells neither."""
    levels, small = ((320, 1), (640, 1), (1280, 1), (1280, 0)), ((96, 1), (192, 1))
    return (
        _base("SD 1.5", {"l": 768}, _Plan(levels, 2, 1), lambda width: 8),
        _base("SD 2", {"h": 1024}, _Plan(levels, 2, 1), lambda width: width // 64),
        _base("SDXL", {"l": 768, "g": 1280}, _Plan(((320, 0), (640, 2), (1280, 10)), 2, 10), lambda width: width // 64),
        _base("Playground", {"l": 128}, _Plan(small, 1, 1), lambda width: width // 32),
    )


class _Plan:
    """A UNet's `levels` of (width, transformer blocks per layer), with `layers` residual layers on the way down."""

    def __init__(self, levels: Sequence[tuple[int, int]], layers: int, middle: int) -> None:
        self.levels, self.layers, self.middle = levels, layers, middle

    def sites(self) -> Iterator[tuple[Site, int]]:
        """In forward order; a level has `layers` layers and its downsampling, and one layer more on the way up."""
        period = self.layers + 1
        for level, (width, depth) in enumerate(self.levels):
            for layer in range(self.layers):
                yield from ((Site("input", 1 + level * period + layer, index), width) for index in range(depth))
        yield from ((Site("middle", 0, index), self.levels[-1][0]) for index in range(self.middle))
        for level, (width, depth) in enumerate(reversed(self.levels)):
            for layer in range(period):
                yield from ((Site("output", level * period + layer, index), width) for index in range(depth))


def _base(family: str, encoders: Mapping[str, int], plan: _Plan, heads: Callable[[int], int]) -> Base:
    context = sum(encoders.values())
    sites = tuple(SiteShape(site, width, context, heads(width)) for site, width in plan.sites())
    return Base(family, context, encoders, sites, "", "")
