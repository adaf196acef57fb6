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
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

HEAD = 64  # channels per head
WIDER = 2  # the feed-forward layers' inner width


@dataclass(frozen=True)
class TowersShape:
    """Widths of the image encoder, of the text context and inside the towers, and M."""

    vision: int
    context: int
    width: int
    tokens: int

    @property
    def heads(self) -> int:
        return max(1, self.width // HEAD)

    @property
    def fits(self) -> bool:
        return self.width % self.heads == 0


class Read(NamedTuple):
    """What a tower reads: features (b, n, width) and which share of its attention each key got (b, n, keys)."""

    features: Tensor
    shares: Tensor


class Attention(nn.Module):
    """From queries and keys of `reads` channels to the shape's width."""

    def __init__(self, shape: TowersShape, reads: int, operations: ModuleType | type) -> None:
        super().__init__()
        self.heads = shape.heads
        self.to_q = operations.Linear(reads, shape.width, bias=False)
        self.to_k = operations.Linear(reads, shape.width, bias=False)
        self.to_v = operations.Linear(reads, shape.width, bias=False)
        self.to_out = operations.Linear(shape.width, shape.width)

    def forward(self, q: Tensor, kv: Tensor, bias: Tensor | None = None) -> Read:
        """q (b, n, .), kv (b, keys, .), `bias` (b, keys) on the logits."""
        q, k, v = (_heads(x, self.heads) for x in (self.to_q(q), self.to_k(kv), self.to_v(kv)))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (b, heads, n, keys)
        shares = (logits if bias is None else logits + bias[:, None, None].to(logits)).softmax(-1)
        return Read(self.to_out((shares @ v).transpose(1, 2).flatten(2)), shares.mean(1))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """x + W_2 gelu(W_1 LN x)"""

    def __init__(self, width: int, operations: ModuleType | type) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(width)
        self.up, self.down = operations.Linear(width, WIDER * width), operations.Linear(WIDER * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Tower(nn.Module):
    def __init__(self, shape: TowersShape, operations: ModuleType | type) -> None:
        super().__init__()
        self.norm_q, self.norm_kv = operations.LayerNorm(shape.vision), operations.LayerNorm(shape.vision)
        self.attention = Attention(shape, shape.vision, operations)
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
        self.attention = Attention(shape, shape.width, operations)
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
    towers, generator = Towers(shape), Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in towers.named_parameters():
            parameter.copy_(_start(name, parameter, generator))
    return towers


def _start(name: str, parameter: Tensor, generator: Generator) -> Tensor:
    if name.startswith("fusion.out."):
        return torch.zeros_like(parameter)
    if name in ("fusion.queries", "fusion.kinds"):
        return torch.randn(parameter.shape, generator=generator)
    if parameter.ndim < 2:
        return torch.ones_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter)
    return torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5
