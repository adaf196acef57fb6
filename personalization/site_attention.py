"""Concepts in the host's attention: patches can lengthen keys and values, but what is done with them passes here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .denoiser import Observation, Observer
from .guests import Instructed, Joint, Nested, with_instruction, with_nested
from .sites import Site

MASK = 2**25  # entries of a sample's mask at once: 64 MB in fp16, and all of it up to 5 700 positions


class Watched(NamedTuple):
    """Who is to be told what this attention saw; `hidden` is attn1's input at the same site."""

    observer: Observer
    site: Site
    hidden: Tensor


class Expected(NamedTuple):
    """What a site's patch prepared for the attention that runs next: `tokens` keys, the last `banks` of them hidden.

    The banks of nested values come first, then the instructions.
    """

    tokens: int
    banks: int = 0
    joint: Joint | None = None
    nested: tuple[Nested, ...] = ()
    instructed: tuple[Instructed, ...] = ()
    watched: Watched | None = None


class SiteAttention:
    """`optimized_attention_override` for one model call, chained to the one that was there.

    The patch of a site leaves `expected` just before its attention runs. Samples that no concept touches run with
    their own tokens only, as if nobody else had a concept: bit for bit.
    """

    def __init__(self, previous: Callable[..., Tensor] | None) -> None:
        self.previous = previous
        self.expected: Expected | None = None
        self.hidden: Tensor | None = None  # attn1's input at this site, while somebody observes

    @torch.compiler.disable
    def __call__(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs):
        previous = self.previous
        attend = func if previous is None else lambda *own, **named: previous(func, *own, **named)
        expected, self.expected = self.expected, None
        if expected is None or k.shape[1] != expected.tokens:  # another pack's own attention, or tokens of its own
            return attend(q, k, v, heads, *args, **kwargs)
        seen = expected.tokens - expected.banks
        out = _joined(attend, q, k[:, :seen], v[:, :seen], heads, expected.joint, args, kwargs)
        bias = _whole_bias(expected, q) if expected.nested or expected.watched else None
        for nested in expected.nested:
            out = with_nested(out, q, k, v, heads, nested, bias)
        for instructed in expected.instructed:
            out = with_instruction(out, q, k, v, heads, instructed)
        if expected.watched:
            _tell(expected.watched, q, k[:, :seen], heads, None if bias is None else bias[..., :seen])
        return out


def _joined(
    attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, joint: Joint | None, args, kwargs
) -> Tensor:
    if joint is None:
        return attend(q, k, v, heads, *args, **kwargs)

    def together(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if joint.bias is None:
            return attend(q, k, v, heads, *args, **kwargs)
        return _biased(attend, q, k, v, heads, joint.bias, kwargs)

    own, rest, short = joint.touched, joint.rest, joint.tokens
    if not len(rest):  # picked out they would be copied, and their gradients gathered
        return together(q, k, v)
    plain = attend(q[rest], k[rest, :short], v[rest, :short], heads, *args, **kwargs)
    return torch.cat((together(q[own], k[own], v[own]), plain))[torch.cat((own, rest)).argsort()]


def _biased(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor, kwargs) -> Tensor:
    """Attention under a bias of the last keys (b, 1, 1 or n, columns), at some positions after the other."""
    size, own = max(1, MASK // k.shape[1]), k.shape[1] - bias.shape[-1]
    biases = repeat(bias) if bias.shape[2] == 1 else bias.split(size, 2)
    out = []
    for part, columns in zip(q.split(size, 1), biases, strict=False):
        mask = pad(columns, (own, 0)).expand(-1, -1, part.shape[1], -1)
        out.append(attend(part, k, v, heads, **{**kwargs, "mask": mask}))
    return torch.cat(out, 1)


def _whole_bias(expected: Expected, q: Tensor) -> Tensor | None:
    """What hides banks and others' tokens from A: (b, 1, 1 or n, tokens), None where there is nothing to hide."""
    joint, seen = expected.joint, expected.tokens - expected.banks
    if joint is None and len(expected.nested) <= 1:
        return None
    positions = 1 if joint is None or joint.bias is None else joint.bias.shape[2]
    bias = q.new_zeros(q.shape[0], 1, positions, expected.tokens)
    bias[..., seen:] = torch.finfo(q.dtype).min / 2
    if joint is not None:
        bias[..., joint.tokens : seen] = torch.finfo(q.dtype).min / 2
        bias[joint.touched, ..., joint.tokens : seen] = 0.0
        if joint.bias is not None:
            bias[joint.touched, ..., seen - joint.bias.shape[-1] : seen] = joint.bias.to(bias)
    return bias


def _tell(watched: Watched, q: Tensor, k: Tensor, heads: int, bias: Tensor | None) -> None:
    """Post-softmax probabilities of the wanted columns, (b, heads, n, columns), fp32."""
    columns, shares = watched.observer.columns, None
    if columns is not None:
        q, k = (part.unflatten(-1, (heads, -1)).transpose(1, 2).float() for part in (q, k))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        shares = (logits if bias is None else logits + bias.float()).softmax(-1)
        shares = shares.gather(-1, columns[:, None, None].expand(*shares.shape[:3], -1))
    watched.observer.see(watched.site, Observation(watched.hidden, shares))
