"""The style tower, the semantic tower and their fusion (DRC, arXiv 2504.17349).

E are the tokens of a picture in a frozen image encoder. A tower is one cross-attention layer and one feed-forward
layer, F_sty^a = StyleTower(q=E_a, kv=E_s), F_sem^a = SemTower(q=E_a, kv=E_m):

    h = Attn(LN q, LN kv),    F = h + FF(LN h)

and a fusion turns both into M instruction tokens X for the denoiser's text layers. The paper leaves the rest open.
Ours: nothing is added to h from q, so that the asking picture's own content passes a tower only as what it attends to;
the fusion is M learned queries z over both features, told apart by learned vectors e,

    g = Attn(z, LN [F_sty + e_sty; F_sem + e_sem]),    X = W LN(g + FF(LN g))

and W starts at zero: an untrained instruction changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ..vision_layers import Attention, FeedForward, Read, begun, heads_of


@dataclass(frozen=True)
class TowersShape:
    """Widths of the image encoder, of the text context and inside the towers, and M."""

    vision: int
    context: int
    width: int
    tokens: int

    @property
    def fits(self) -> bool:
        return self.width % heads_of(self.width) == 0


class Tower(nn.Module):
    def __init__(self, shape: TowersShape, operations: ModuleType | type) -> None:
        super().__init__()
        self.norm_q, self.norm_kv = operations.LayerNorm(shape.vision), operations.LayerNorm(shape.vision)
        self.attention = Attention(shape.vision, shape.width, operations)
        self.feed_forward = FeedForward(shape.width, operations)

    def forward(self, q: Tensor, kv: Tensor) -> Read:
        """q (b, n, vision), kv (b, keys, vision)."""
        read = self.attention(self.norm_q(q), self.norm_kv(kv))
        return read._replace(features=self.feed_forward(read.features))


class Fusion(nn.Module):
    def __init__(self, shape: TowersShape, operations: ModuleType | type) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(shape.tokens, shape.width))
        self.kinds = nn.Parameter(torch.zeros(2, shape.width))
        self.norm_in, self.norm_out = operations.LayerNorm(shape.width), operations.LayerNorm(shape.width)
        self.attention = Attention(shape.width, shape.width, operations)
        self.feed_forward = FeedForward(shape.width, operations)
        self.out = operations.Linear(shape.width, shape.context)

    def forward(self, style: Tensor, semantics: Tensor, bias: Tensor | None = None) -> Tensor:
        """Features (b, s, width) and (b, t, width), s or t may be 0; `bias` (b, s + t) -> (b, M, context)."""
        style_kind, semantic_kind = self.kinds.to(style)
        features = torch.cat([style + style_kind, semantics + semantic_kind], 1)
        queries = self.queries.to(style).expand(len(style), -1, -1)
        g = self.attention(queries, self.norm_in(features), bias).features
        return self.out(self.norm_out(self.feed_forward(g)))


class Towers(nn.Module):
    """`operations` as in the host's modules."""

    def __init__(self, shape: TowersShape, operations: ModuleType | type = nn) -> None:
        super().__init__()
        self.shape = shape
        self.style, self.semantics = Tower(shape, operations), Tower(shape, operations)
        self.fusion = Fusion(shape, operations)


def untrained(shape: TowersShape, seed: int) -> Towers:
    """The same numbers for the same seed, whatever else has drawn numbers."""
    return begun(Towers(shape), seed, zero=("fusion.out.",), drawn=("fusion.queries", "fusion.kinds"))
