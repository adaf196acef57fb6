"""Regions in the host's attention: patches can lengthen a context, but a mask only passes through the override."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Widened(NamedTuple):
    """A site whose context was lengthened: the bias of the touched samples, and how long it was."""

    bias: Tensor  # (t, 1, positions, tokens + n)
    touched: Tensor
    rest: Tensor
    tokens: int


class RegionalAttention:
    """`optimized_attention_override` for one model call, chained to the one that was there.

    The patch of a site leaves `expected` just before its attention runs. Samples that no region touches run with their
    own tokens only, as if nobody else had a region: bit for bit.
    """

    def __init__(self, previous: Callable[..., Tensor] | None) -> None:
        self.previous = previous
        self.expected: Widened | None = None

    def __call__(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs):
        widened, self.expected = self.expected, None
        previous = self.previous
        attend = func if previous is None else lambda *own, **named: previous(func, *own, **named)
        if widened is None:
            return attend(q, k, v, heads, *args, **kwargs)
        own, short = widened.touched, widened.tokens
        masked = attend(q[own], k[own], v[own], heads, **{**kwargs, "mask": widened.bias})
        if not len(widened.rest):
            return masked
        rest = widened.rest
        plain = attend(q[rest], k[rest, :short], v[rest, :short], heads, *args, **kwargs)
        return torch.cat((masked, plain))[torch.cat((own, rest)).argsort()]
