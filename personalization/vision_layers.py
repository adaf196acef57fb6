"""Layers of the small networks over an image encoder's tokens (towers/, nested_encoder/), and their first numbers.

`operations` as in the host's modules, so that it can cast and offload them.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

HEAD = 64  # channels per head
WIDER = 2  # the feed-forward layers' inner width

Network = TypeVar("Network", bound=nn.Module)


def heads_of(width: int) -> int:
    return max(1, width // HEAD)


class Read(NamedTuple):
    """What attention reads: features (b, n, width) and which share of it each key got (b, n, keys)."""

    features: Tensor
    shares: Tensor


class Attention(nn.Module):
    """From queries and keys of `reads` channels to `width`."""

    def __init__(self, reads: int, width: int, operations: ModuleType | type) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.to_q = operations.Linear(reads, width, bias=False)
        self.to_k = operations.Linear(reads, width, bias=False)
        self.to_v = operations.Linear(reads, width, bias=False)
        self.to_out = operations.Linear(width, width)

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


def begun(network: Network, seed: int, zero: tuple[str, ...], drawn: tuple[str, ...]) -> Network:
    """`network` with the same first numbers for the same seed, whatever else has drawn numbers.

    `zero`: beginnings of names that start at zero; `drawn`: names that are normal of unit variance.
    """
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(_first(name, parameter, generator, zero, drawn))
    return network


def _first(name: str, parameter: Tensor, generator: Generator, zero: tuple[str, ...], drawn: tuple[str, ...]) -> Tensor:
    if name.startswith(zero):
        return torch.zeros_like(parameter)
    if name in drawn:
        return torch.randn(parameter.shape, generator=generator)
    if parameter.ndim < 2:
        return torch.ones_like(parameter) if name.endswith("weight") else torch.zeros_like(parameter)
    return torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
