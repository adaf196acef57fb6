"""Sites: the attention layers of a frozen denoiser at which a concept can act."""

from __future__ import annotations

from typing import NamedTuple


class Site(NamedTuple):
    """One transformer block as ComfyUI names it, `("input", 4, 0)`: attn1 reads image tokens, attn2 text tokens."""

    block: str
    number: int
    index: int

    @property
    def key(self) -> str:
        return f"{self.block}.{self.number}.{self.index}"

    @classmethod
    def parse(cls, key: str) -> Site:
        """`"input.4.0"` -> Site; ValueError when the key is not of that form."""
        block, number, index = key.split(".")
        if block not in ("input", "middle", "output"):
            raise ValueError(f"'{key}' names no site; the block must be input, middle or output.")
        return cls(block, int(number), int(index))


class SiteShape(NamedTuple):
    """A site and the widths of what meets there."""

    site: Site
    width: int  # channels of the image tokens (and of q)
    context: int  # channels of the text rows before to_k / to_v
    heads: int


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The grid (h, w) of a site's image tokens for latents of `size`; None where they are no such grid."""
    scale = (tokens / (size[0] * size[1])) ** 0.5
    grid = round(size[0] * scale), round(size[1] * scale)
    return grid if grid[0] * grid[1] == tokens else None
