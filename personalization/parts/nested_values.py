"""Nested values: the placeholder's value depends on who asks.

Nested Attention (arXiv 2501.01407), eq. 3 and 4, in the exact cheap form: with the layer's own query q,

    v*(q) = softmax(q K_n^T / sqrt d) V_n
    v*(q) <- value_norm |V[s]| v*(q) / |v*(q)|   norms over the layer's whole width; 2 in the paper, 0 = as it is
    out = A V + u A[s] (v*(q) - V[s])        A = softmax(q K^T / sqrt d), s = the placeholder's slots

The key of s stays the text's: where the concept appears remains the prompt's decision. Learned without an encoder, the
bank of tokens T lives in the context's space and goes through the layer's own projections: K_n = W_k T, V_n = W_v T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..sites import SiteShape
from .per_site import PerSite


@dataclass(frozen=True)
class NestedValues(PerSite):
    """`rows[site]` is the bank T at that site, (m, context width), fp32."""

    kind: ClassVar[str] = "nested_values"

    @staticmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, int]:
        return (None, shape.context)


def nested_change(
    q: Tensor, share: Tensor, value: Tensor, keys: Tensor, values: Tensor, value_norm: float = 0.0
) -> Tensor:
    """A[s] (v*(q) - V[s]) for k slots, (k, heads, n, d), fp32.

    q (k, heads, n, d), share = A[s] (k, heads, n), value = V[s] (k, heads, 1, d), keys and values (k, heads, m, d).
    """
    inner = (q.float() @ keys.float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    own, new = value.float(), inner @ values.float()
    if value_norm:
        new = new * (value_norm * _norm(own) / _norm(new).clamp_min(1e-12))
    return share[..., None] * (new - own)


def _norm(x: Tensor) -> Tensor:
    """Of (k, heads, n, d) over heads and d: (k, 1, n, 1)."""
    return torch.linalg.vector_norm(x, dim=(1, 3), keepdim=True)


def share_of(q: Tensor, keys: Tensor, column: Tensor, bias: Tensor | None = None) -> Tensor:
    """A[s] = exp(logit_s - logsumexp) (k, heads, n) of column (k,) among keys (k, heads, tokens, d), fp32."""
    logits = q.float() @ keys.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    logits = logits if bias is None else logits + bias.float()
    own = logits.gather(-1, column.view(-1, 1, 1, 1).expand(*logits.shape[:-1], 1))[..., 0]
    return torch.exp(own - logits.logsumexp(-1))
