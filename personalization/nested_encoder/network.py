"""From a picture to the values of one word: a Q-Former over an image encoder (Nested Attention, arXiv 2501.01407).

E are the picture's tokens, z are m learned queries. The paper's Q-Former is BLIP-2's (arXiv 2301.12597); depth and
order are ours:

    h <- z,    then N times    h <- h + Attn(LN h, LN W_E E),    h <- h + Attn(LN h, LN h),    h <- h + FF(LN h)
    T = r + W LN h                                             (m, context width)
    T_s = T + T D_s^T U_s^T,    K_n = W_k T_s,    V_n = W_v T_s            at site s, with its own W_k and W_v

The paper learns W_Kn and W_Vn of every layer; ours start as the layer's own W_k and W_v and share one low-rank change,
so that what comes out is a bank in the context's space as one learned without an encoder (parts/nested_values.py).
r is the class word's own row of the context, W and U start at zero: untrained, the word reads as its class word.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ..vision_layers import Attention, FeedForward, begun, heads_of


@dataclass(frozen=True)
class EncoderShape:
    """Widths of the image encoder, of the text context and of the Q-Former, its depth N, m, and the sites' rank."""

    vision: int
    context: int
    width: int
    depth: int
    tokens: int
    rank: int
    sites: tuple[str, ...]  # keys, in the order of the base

    @property
    def fits(self) -> bool:
        return self.width % heads_of(self.width) == 0


class Block(nn.Module):
    def __init__(self, width: int, operations: ModuleType | type) -> None:
        super().__init__()
        self.norm_look, self.norm_own = operations.LayerNorm(width), operations.LayerNorm(width)
        self.look, self.own = Attention(width, width, operations), Attention(width, width, operations)
        self.feed_forward = FeedForward(width, operations)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """h (b, m, width), seen (b, n, width)."""
        h = h + self.look(self.norm_look(h), seen).features
        own = self.norm_own(h)
        return self.feed_forward(h + self.own(own, own).features)


class NestedEncoder(nn.Module):
    """`operations` as in the host's modules."""

    def __init__(self, shape: EncoderShape, operations: ModuleType | type = nn) -> None:
        super().__init__()
        self.shape, sites = shape, len(shape.sites)
        self.queries = nn.Parameter(torch.zeros(shape.tokens, shape.width))
        self.see, self.norm_seen = operations.Linear(shape.vision, shape.width), operations.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, operations) for _ in range(shape.depth))
        self.norm_out, self.out = operations.LayerNorm(shape.width), operations.Linear(shape.width, shape.context)
        self.down = nn.Parameter(torch.zeros(sites, shape.rank, shape.context))
        self.up = nn.Parameter(torch.zeros(sites, shape.context, shape.rank))

    def forward(self, seen: Tensor, row: Tensor) -> Tensor:
        """Pictures' tokens (b, n, vision), class words' rows (b, context) -> T_s (b, sites, m, context)."""
        seen = self.norm_seen(self.see(seen))
        h = self.queries.to(seen).expand(len(seen), -1, -1)
        for block in self.blocks:
            h = block(h, seen)
        tokens = row[:, None] + self.out(self.norm_out(h))  # (b, m, context)
        inner = torch.einsum("bmc,src->bsmr", tokens, self.down.to(tokens))
        return tokens[:, None] + torch.einsum("bsmr,scr->bsmc", inner, self.up.to(tokens))


def untrained(shape: EncoderShape, seed: int) -> NestedEncoder:
    """The same numbers for the same seed, whatever else has drawn numbers."""
    return begun(NestedEncoder(shape), seed, zero=("out.", "up"), drawn=("queries",))
