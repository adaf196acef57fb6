"""Low-rank layers acting beside the weights, in the samples that hold the word, while a transformer block runs.

A Linear layer of the host is not told which samples it computes. Its transformer block is, so a stand-in for the
block's forward remembers who acts until the block is done. It reads this from the call's own options and keeps nothing
between calls: without a plan, and for models that nothing is composed on, it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from ..guests import Presence
from ..parts.low_rank import LowRank, Pair, low_rank_change
from ..rows import RowCache
from ..sites import Site
from .concept_clip import KEY
from .family import sites_of
from .host_types import Options

Acting = tuple[Presence, Mapping[str, Pair]]


class ActingBlock:
    """Stands in a transformer block's `forward`, inside gradient checkpointing, and hooks its Linear layers."""

    def __init__(self, site: Site, block: BasicTransformerBlock) -> None:
        self.site, self.block = site, block
        self.plain: Callable[..., Tensor] = block.forward
        self.acting: Sequence[Acting] = ()
        self.cache = RowCache()
        # A graph that was compiled without the hooks would leave them out.
        self.uncompiled = cast(Callable[..., Tensor], torch.compiler.disable(self.plain))
        block.forward = self  # pyright: ignore[reportAttributeAccessIssue] - the decorator's type hides the arguments
        self.hooks = [
            module.register_forward_hook(_hook(self, name))
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear)
        ]

    @partial(torch.compiler.disable, recursive=False)  # who acts is in the call's options, which compilers do not guard
    def __call__(self, x: Tensor, context: Tensor | None = None, transformer_options: Options | None = None) -> Tensor:
        options = transformer_options or {}
        whole, regional = self._present(options.get(KEY))
        if not whole and not regional:
            return self.plain(x, context=context, transformer_options=options)

        def run(acting: Sequence[Acting]) -> Tensor:
            self.acting = acting
            try:
                return self.uncompiled(x, context=context, transformer_options=options)
            finally:
                self.acting = ()

        out = plain = run(whole)
        for one in regional:  # text keys have no place in the picture: the block runs with and without, and is mixed
            height, width = options["activations_shape"][-2:]
            mask = one[0].mask((height, width))[..., None]  # (b, n, 1)
            out = out + mask.to(out) * (run([*whole, one]) - plain)
        return out

    def _present(self, loom: Any) -> tuple[list[Acting], list[Acting]]:
        """Who acts everywhere in the picture and who in a region."""
        here = [] if not loom or not loom.plan else list(_at(self.site, loom.plan.low_rank))
        if not here:
            return [], []
        self.cache = loom.cache
        if loom.run is not None:
            for presence, _ in here:
                loom.run.note("acted", presence.placed.word, self.site)
        whole = [one for one in here if one[0].placed.region is None]
        return whole, [one for one in here if one[0].placed.region is not None]

    def changed(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        for presence, pairs in self.acting:
            if name in pairs:
                out = _with_change(out, x, pairs[name], presence, self.cache)
        return out

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        if self.block.__dict__.get("forward") is self:
            del self.block.forward


def inject(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Put the stand-ins in; those that are there stay."""
    for shape, block in sites_of(patcher.model.diffusion_model):
        if not isinstance(block.__dict__.get("forward"), ActingBlock):
            ActingBlock(shape.site, block)


def eject(patcher: comfy.model_patcher.ModelPatcher) -> None:
    for _, block in sites_of(patcher.model.diffusion_model):
        if isinstance(acting := block.__dict__.get("forward"), ActingBlock):
            acting.remove()


@contextmanager
def injected(patcher: comfy.model_patcher.ModelPatcher) -> Iterator[None]:
    """For the time of a training session; gradient checkpointing comes after, around it."""
    inject(patcher)
    try:
        yield
    finally:
        eject(patcher)


def _hook(block: ActingBlock, name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, given, out: block.changed(name, given[0], out)


def _at(site: Site, presences: Sequence[Presence]) -> Iterator[Acting]:
    for presence in presences:
        for part in presence.placed.concept.parts:
            if isinstance(part, LowRank) and site in part.layers:
                yield presence, part.layers[site]


def _with_change(out: Tensor, x: Tensor, pair: Pair, presence: Presence, cache: RowCache) -> Tensor:
    """out + u (alpha / r) B A x in the samples that hold the word; the others keep their bits."""
    times, odd = divmod(x.shape[0], presence.u.shape[0])  # packs that tile the picture make several of one sample
    if odd:
        return out
    rows = (presence.rows[:, None] * times + torch.arange(times, device=x.device)).flatten()
    own, u = x[rows], presence.u[rows // times].to(x)[:, None, None]
    change = u * low_rank_change(own, cache.like(pair.a, x), cache.like(pair.b, x))
    return out.index_add(0, rows, change.to(out))
