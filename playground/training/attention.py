"""Attention written out: on CPU its backward is several times faster than the fused kernel's."""

from __future__ import annotations

from torch import Tensor


def explicit_attention(
    func: object, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: object
) -> Tensor:
    """softmax(q k^T / sqrt d + mask) v, packed heads (b, n, heads d); an `optimized_attention_override` of the host."""
    b, n, width = q.shape
    d = width // heads
    q, k, v = (t.view(b, -1, heads, d).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) * d**-0.5
    weights = (logits if mask is None else logits + mask).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).reshape(b, n, width)
