"""A diffusers UNet's sites, and what stands at them: attention processors, and blocks with low-rank layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..composition import PlacedConcept
from ..low_rank_block import LowRankBlock
from ..parts.low_rank import layer_widths
from ..plan import Plan
from ..reading import Reading, with_guests, with_image_tokens, with_rows
from ..regions import Grid
from ..report import Run
from ..rows import RowCache
from ..site_attention import SiteAttention
from ..sites import Site, SiteShape

KNOWN = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor", "FusedAttnProcessor2_0")


def sites_of(unet: UNet2DConditionModel) -> Iterator[tuple[SiteShape, nn.Module]]:
    """Every transformer block with text attention, in forward order, under ComfyUI's name for it.

    ComfyUI counts what the picture passes: the first convolution, every residual layer, every downsampling.
    """
    number = 1
    for down in unet.down_blocks:
        yield from _blocks("input", number, down)
        number += len(_list(down, "resnets")) + len(_list(down, "downsamplers"))
    if unet.mid_block is not None:
        yield from _blocks("middle", 0, unet.mid_block)
    number = 0
    for up in unet.up_blocks:
        yield from _blocks("output", number, up)
        number += len(_list(up, "resnets"))


def _blocks(block: str, first: int, level: nn.Module) -> Iterator[tuple[SiteShape, nn.Module]]:
    for layer, attention in enumerate(_list(level, "attentions")):
        for index, one in enumerate(attention.transformer_blocks):
            site = Site(block, first + layer, index)
            yield SiteShape(site, one.attn2.to_q.in_features, one.attn2.to_k.in_features, one.attn2.heads), one


def _list(module: nn.Module, name: str) -> list[Any]:
    return list(getattr(module, name, None) or [])


@dataclass
class Now:
    """What the UNet call that runs knows; without a plan everything is as diffusers has it."""

    plan: Plan | None = None
    run: Run = field(default_factory=Run)
    size: Grid = (0, 0)
    cache: RowCache = field(default_factory=RowCache)

    def grid(self, tokens: int) -> Grid:
        """Rows and columns of the level that has so many positions; every downsampling rounds up."""
        height, width = self.size
        while height * width > tokens:
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width

    def note(self, site: Site, acting: tuple[PlacedConcept, ...]) -> None:
        for placed in acting:
            self.run.note("acted", placed.word, site)


class SiteProcessor:
    """Stands in for the processor of one attention layer, which goes on doing all that no concept brings tokens to."""

    def __init__(self, site: Site, attention: Attention, now: Now) -> None:
        self.site, self.attention, self.now, self.plain = site, attention, now, attention.processor
        if type(self.plain).__name__ not in KNOWN:
            raise ValueError(
                f"The pipeline's attention has the processor {type(self.plain).__name__}; concepts act beside "
                f"{', '.join(KNOWN)}. Take it off (an IP-Adapter: pipe.unload_ip_adapter()), or use ComfyUI for both."
            )
        attention.set_processor(self)  # pyright: ignore[reportArgumentType]

    def remove(self) -> None:
        if self.attention.processor is self:
            self.attention.set_processor(self.plain)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        plan = self.now.plan
        reading = self._reading(plan, hidden_states, encoder_hidden_states) if plan else None
        if reading is None or (reading.expected is None and reading.value is reading.context):
            context = reading.context if reading and reading.acting else encoder_hidden_states
            rest: tuple[Any, ...] = () if temb is None and not args else (temb, *args)  # a sliced one takes none
            return self.plain(attn, hidden_states, context, attention_mask, *rest, **kwargs)
        if attention_mask is not None:
            raise ValueError(
                "The pipeline masks its text; tokens that concepts bring need attention without a mask. Call it "
                "without one."
            )
        layers: Any = attn  # some of an Attention's layers are None in kinds that these families do not have
        q, k, v = layers.to_q(hidden_states), layers.to_k(reading.context), layers.to_v(reading.value)
        finish = SiteAttention(None)
        finish.expected = reading.expected
        out = cast(Callable[..., Tensor], finish)(_attend, q, k, v, attn.heads)
        return layers.to_out[1](layers.to_out[0](out)) / attn.rescale_output_factor

    def _reading(self, plan: Plan, hidden: Tensor, context: Tensor | None) -> Reading:
        now, grid = self.now, self.now.grid(hidden.shape[1])
        if context is None:
            reading = with_image_tokens(hidden, hidden, self.site, plan, grid, now.cache)
        else:
            rows = with_rows(context, context, self.site, plan, now.cache)
            guests = with_guests(rows.context, rows.value, self.site, plan, grid, now.cache)
            reading = guests._replace(acting=rows.acting + guests.acting)
        now.note(self.site, reading.acting)
        return reading


class PipelineBlock(LowRankBlock):
    """A transformer block whose low-rank layers act beside the weights; merged ones in every sample."""

    def __init__(self, shape: SiteShape, block: nn.Module, now: Now) -> None:
        processors = [one.processor for one in block.modules() if isinstance(one, Attention)]
        if any(type(getattr(one, "plain", one)).__name__.startswith("Fused") for one in processors):
            raise ValueError(
                "The pipeline's attention computes queries, keys and values in one (fuse_qkv_projections); low-rank "
                "layers need them apart. Call pipe.unfuse_qkv_projections() before."
            )
        super().__init__(shape.site, block, {name: _linear(block, name) for name in layer_widths(shape)})
        self.now, self.cache = now, now.cache

    def __call__(self, hidden_states: Tensor, *args: object, **kwargs: object) -> Tensor:
        present = self.now.plan.low_rank if self.now.plan else ()
        if not present:
            return self.plain(hidden_states, *args, **kwargs)
        return self.run(present, self.now.grid(hidden_states.shape[1]), hidden_states, *args, **kwargs)

    def changed(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        self.now.note(self.site, tuple(presence.placed for presence, pairs in self.acting if name in pairs))
        return super().changed(name, x, out)


def _linear(block: nn.Module, name: str) -> nn.Module:
    """The layer itself: a LoRA that diffusers loads stands around it, and goes again."""
    layer = block.get_submodule(name)
    return getattr(layer, "base_layer", layer)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Heads packed: q (b, n, C), k and v (b, tokens, C) -> (b, n, C)."""
    q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
