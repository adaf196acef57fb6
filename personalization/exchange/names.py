"""What LoRA files call the layers at our sites: as in the original checkpoints, and as in diffusers.

Site("input", 4, 0)    input_blocks.4.1.transformer_blocks.0    down_blocks.1.attentions.0.transformer_blocks.0
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..parts.low_rank import layer_widths
from ..sites import Site, SiteShape

Layer = tuple[Site, str]  # a site and the name of a layer in its block: "attn2.to_k"


def original_name(site: Site) -> str:
    block = "middle_block" if site.block == "middle" else f"{site.block}_blocks.{site.number}"
    return f"{block}.1.transformer_blocks.{site.index}"


def diffusers_name(site: Site, period: int) -> str:
    """`period` is how many of our numbers a level of the UNet takes."""
    if site.block == "middle":
        return f"mid_block.attentions.0.transformer_blocks.{site.index}"
    place = site.number - 1 if site.block == "input" else site.number
    level, layer = divmod(place, period)
    side = "down" if site.block == "input" else "up"
    return f"{side}_blocks.{level}.attentions.{layer}.transformer_blocks.{site.index}"


def period_of(shapes: Sequence[SiteShape]) -> int:
    """Numbers per level: the least at which no site stands where a level has its downsampling."""
    places = {shape.site.number for shape in shapes if shape.site.block == "input"}
    return next(period for period in range(2, 2 + max(places, default=0) + 1) if all(one % period for one in places))


def known_layers(shapes: Sequence[SiteShape]) -> dict[str, Layer]:
    """Every name, with `_` for every dot as kohya's files have it -> the layer that it means."""
    period, found = period_of(shapes), {}
    for shape in shapes:
        for layer in layer_widths(shape):
            for block in (original_name(shape.site), diffusers_name(shape.site, period)):
                found[flat(f"{block}.{layer}")] = (shape.site, layer)
                found[flat(f"{block}.{layer.removesuffix('.0')}")] = (shape.site, layer)  # to_out without its 0
    return found


def flat(name: str) -> str:
    return re.sub(r"\.", "_", name)
