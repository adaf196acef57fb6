"""Attention while learning: by a kernel that has a backward pass, and on a CPU written out where it is short.

There the backward pass of short sequences is far faster than the fused kernel's.
"""

from __future__ import annotations

from collections.abc import Callable

from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor

WITH_GRADIENTS = {f"attention_{kind}" for kind in ("basic", "split", "sub_quad", "pytorch", "xformers")}
LARGEST = 2**17  # logits per head; beyond it the fused kernel saves more memory than it costs time


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt d + mask) v; heads packed, (b, n, heads d)."""
    b, n, width = q.shape
    d = width // heads
    q, k, v = (t.view(b, -1, heads, d).transpose(1, 2) for t in (q, k, v))
    logits = q @ k.transpose(-1, -2) * d**-0.5
    weights = (logits if mask is None else logits + mask).softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).reshape(b, n, width)


def with_gradients(func: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
    """An `optimized_attention_override` of the host, in the place of one that a node may have set."""
    return differentiable(func)(*args, **kwargs)


def differentiable(func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The host's kernel; SageAttention and FlashAttention have no backward pass there, and give way to torch's."""
    return func if getattr(func, "__name__", "") in WITH_GRADIENTS else attention_pytorch


def small_attention(
    func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: object, **kwargs: object
) -> Tensor:
    """An `optimized_attention_override` of the host: short, packed and unmasked calls written out, the rest as ever."""
    func = differentiable(func)
    plain = not args and q.ndim == 3 and kwargs.get("mask") is None and not kwargs.get("skip_reshape")
    if plain and q.shape[1] * k.shape[1] <= LARGEST:
        return explicit_attention(q, k, v, heads)
    return func(q, k, v, heads, *args, **kwargs)
