"""Low-rank layers acting beside the weights, in the samples that hold the word, while a transformer block runs.

A Linear layer is not told which samples it computes. Its transformer block is, so a stand-in for the block's forward
remembers who acts until the block is done, and keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .guests import Presence
from .parts.low_rank import LowRank, Pair, low_rank_change
from .regions import Grid
from .rows import RowCache
from .sites import Site

Acting = tuple[Presence, Mapping[str, Pair]]
TEXT = ("attn2.to_k", "attn2.to_v")  # layers that read the prompt


class LowRankBlock:
    """Stands in a transformer block's `forward` and hooks its layers; a host's own says who acts in a call."""

    def __init__(self, site: Site, block: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self.site, self.block = site, block
        self.before: Callable[..., Tensor] | None = block.__dict__.get(
            "forward"
        )  # another pack's, where it stands on the block itself
        self.plain: Callable[..., Tensor] = block.forward
        self.acting: Sequence[Acting] = ()
        self.cache = RowCache()
        # A graph that was compiled without the hooks would leave them out.
        self.uncompiled = cast(Callable[..., Tensor], torch.compiler.disable(self.plain))
        block.forward = cast(Callable[..., Tensor], self)
        self.hooks = [layer.register_forward_hook(_hook(self, name)) for name, layer in layers.items()]

    def run(self, present: Sequence[Presence], grid: Grid, *args: object, **kwargs: object) -> Tensor:
        """The block with the layers of those who are present: its output (b, n, width)."""
        here = list(_at(self.site, present))
        if not here:
            return self.plain(*args, **kwargs)

        def run(acting: Sequence[Acting]) -> Tensor:
            self.acting = acting
            try:
                return self.uncompiled(*args, **kwargs)
            finally:
                self.acting = ()

        whole = [one for one in here if one[0].placed.region is None]
        out = plain = run(whole)
        for one in (one for one in here if one[0].placed.region is not None):
            # text keys have no place in the picture: the block runs with and without, and is mixed
            mask = one[0].mask(grid)[..., None]  # (b, n, 1)
            out = out + mask.to(out) * (run([*whole, one]) - plain)
        return out

    def changed(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        for presence, pairs in self.acting:
            times, odd = divmod(x.shape[0], presence.u.shape[0])  # packs that tile the picture make several of a sample
            if name in pairs and not odd:
                pair = Pair(*(self.cache.like(one, x) for one in pairs[name]))
                change = _in_phrase if name in TEXT and presence.placed.narrow else _in_sample
                out = change(out, x, pair, presence, times)
        return out

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        if self.block.__dict__.get("forward") is self:
            del self.block.forward
            if self.before is not None:
                self.block.forward = self.before


def _hook(block: LowRankBlock, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, given, out: block.changed(name, given[0], out)


def _at(site: Site, presences: Sequence[Presence]) -> Iterator[Acting]:
    for presence in presences:
        for part in presence.placed.concept.parts:
            if isinstance(part, LowRank) and site in part.layers:
                yield presence, part.layers[site]


def _in_sample(out: Tensor, x: Tensor, pair: Pair, presence: Presence, times: int) -> Tensor:
    """out + u (alpha / r) B A x in the samples that hold the word; the others keep their bits."""
    samples = _tiled(presence.rows, times)
    u = presence.u[samples // times].to(x)[:, None, None]
    return out.index_add(0, samples, (u * low_rank_change(x[samples], *pair)).to(out))


def _in_phrase(out: Tensor, x: Tensor, pair: Pair, presence: Presence, times: int) -> Tensor:
    """The same of text (b, tokens, d) in the rows of its phrase alone: other words keep their keys and values."""
    samples, rows = _tiled(presence.phrase[0], times), presence.phrase[1].repeat_interleave(times)
    u = presence.u[samples // times].to(x)[:, None]
    change = u * low_rank_change(x[samples, rows], *pair)
    return out.index_put((samples, rows), change.to(out), accumulate=True)


def _tiled(samples: Tensor, times: int) -> Tensor:
    return (samples[:, None] * times + torch.arange(times, device=samples.device)).flatten()
