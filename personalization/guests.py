"""Guests: tokens that a concept brings along to a site, and in which samples, how strongly and where it is present."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .composition import PlacedConcept
from .indices import indices
from .parts.image_tokens import ImageTokens, presence_logits
from .parts.instruction import LatentInstruction, instruction
from .parts.nested_values import NestedValues, nested_change, share_of
from .parts.per_site import PerSite
from .regions import Box, Grid, on_grid
from .rows import RowCache
from .sites import Site

GUESTS = (ImageTokens, NestedValues, LatentInstruction)


class Sides(NamedTuple):
    """The samples of a batch that see somebody's tokens, and those that run as if there were none; (k,) each."""

    touched: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Presence:
    """One concept in one model call: `u` (b,) is 0 in samples without it; `boxes` say which part a sample shows.

    `wholly`: wherever it is not 0 it is 1, at every position; known without asking the device.
    """

    placed: PlacedConcept
    u: Tensor
    boxes: tuple[tuple[int, Box], ...]  # (sample, box)
    spoken: tuple[tuple[int, int], ...] = ()  # (sample, row) of its phrase, slots and category alike
    wholly: bool = False
    _at: dict[Grid, Tensor] = field(default_factory=dict)
    _sides: dict[frozenset[int], Sides] = field(default_factory=dict)

    @cached_property
    def samples(self) -> frozenset[int]:
        return frozenset(sample for sample, _ in self.boxes)

    @cached_property
    def rows(self) -> Tensor:
        """The samples that hold the word (k,)."""
        return indices(sorted(self.samples), self.u.device)

    @cached_property
    def phrase(self) -> tuple[Tensor, Tensor]:
        """Samples and rows of its phrase, (m,) each."""
        sample, row = indices(list(zip(*self.spoken, strict=True)), self.u.device).unbind()
        return sample, row

    def sides(self, others: Iterable[Presence]) -> Sides:
        """Of its batch, by who sees its tokens or others'; counted once in a model call, not at every site."""
        here = self.samples.union(*(one.samples for one in others))
        if here not in self._sides:
            rest = sorted(set(range(len(self.u))) - here)
            self._sides[here] = Sides(indices(sorted(here), self.u.device), indices(rest, self.u.device))
        return self._sides[here]

    def over(self, grid: Grid) -> Tensor:
        """u at every position (b, h w), or (b, 1) where the concept has no region."""
        return self.u[:, None] * self.mask(grid)

    def mask(self, grid: Grid) -> Tensor:
        """The region (b, h w), or ones (b, 1)."""
        region = self.placed.region
        if region is None:
            return self.u.new_ones(len(self.u), 1)
        if grid not in self._at:
            masks = torch.zeros(len(self.u), grid[0] * grid[1])
            for sample, box in self.boxes:
                masks[sample] = on_grid(region, box, grid).flatten()
            self._at[grid] = masks.to(self.u)
        return self._at[grid]


class Joint(NamedTuple):
    """Tokens that the `touched` samples see behind their own `tokens`, under `bias` (t, 1, 1 or n, the last tokens).

    Before those it is 0: at a picture's own tokens the whole mask would be n x n. None where it is 0 everywhere:
    attention without a mask is faster, and keeps less for the backward pass.
    """

    bias: Tensor | None
    touched: Tensor
    rest: Tensor
    tokens: int


def bring(kind: type[PerSite], site: Site, present: Iterable[Presence]) -> list[tuple[Presence, Tensor]]:
    """Who brings which tokens of that kind to the site."""
    return [
        (presence, part.rows[site])
        for presence in present
        for part in presence.placed.concept.parts
        if isinstance(part, kind) and site in part.rows
    ]


def appended(context: Tensor, guests: Sequence[tuple[Presence, Tensor]], cache: RowCache) -> Tensor:
    """The context (b, tokens, d) with everybody's tokens (m, d), or one set per sample (b, m, d), behind it."""
    rows = [cache.like(tokens, context) for _, tokens in guests]
    return torch.cat([context, *(one.expand(context.shape[0], -1, -1) for one in rows)], 1)


def joint(guests: Sequence[tuple[Presence, Tensor]], tokens: int, grid: Grid, like: Tensor) -> Joint:
    """How the samples' own `tokens` and the guests' are seen together; `like` gives dtype and device of the logits."""
    first, *others = (presence for presence, _ in guests)
    touched, rest = first.sides(others)
    if first.wholly and all(one.wholly and one.samples == first.samples for one in others):
        return Joint(None, touched, rest, tokens)
    blocks = [
        presence_logits(presence.over(grid)[touched])[..., None].expand(-1, -1, rows.shape[-2])
        for presence, rows in guests
    ]
    positions = max(block.shape[1] for block in blocks)
    bias = torch.cat([block.expand(-1, positions, -1) for block in blocks], -1)
    return Joint(bias[:, None].to(like.dtype), touched, rest, tokens)


class Nested(NamedTuple):
    """Slots whose value is nested: k entries, `u` (k, 1 or n); the bank stands in `columns` of keys and values."""

    batch: Tensor
    token: Tensor
    u: Tensor
    columns: slice
    value_norm: float = 0.0


def with_nested(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, nested: Nested, bias: Tensor | None
) -> Tensor:
    """out + u A[s] (v*(q) - V[s]); `out`, `q` (b, n, C), `k`, `v` (b, tokens, C), heads packed.

    The bank's columns are hidden from A by `bias` (b, 1, 1 or n, tokens), None where they stand alone behind the rest.
    """
    q, k, v = (_heads(part, heads) for part in (q, k, v))  # (b, heads, ., d)
    batch, token, columns = nested.batch, nested.token, nested.columns
    own, keys, values = q[batch], k[batch], v[batch]
    seen = keys[:, :, : columns.start] if bias is None else keys
    share = share_of(own, seen, token, None if bias is None else bias[batch])
    value = values.gather(2, token.view(-1, 1, 1, 1).expand(-1, heads, 1, values.shape[-1]))
    change = nested_change(own, share, value, keys[:, :, columns], values[:, :, columns], nested.value_norm)
    change = nested.u.float()[:, None, :, None] * change
    return out.index_add(0, batch, change.transpose(1, 2).flatten(2).to(out.dtype))


class Instructed(NamedTuple):
    """Samples that a latent instruction acts in: k of them, `u` (k, 1 or n); it stands in `columns` of keys, values."""

    batch: Tensor
    u: Tensor
    columns: slice


def with_instruction(out: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, instructed: Instructed) -> Tensor:
    """out + u softmax(q K_x^T / sqrt d) V_x; `out`, `q` (b, n, C), `k`, `v` (b, tokens, C), heads packed."""
    batch, columns = instructed.batch, instructed.columns
    own, keys, values = (_heads(part, heads) for part in (q[batch], k[batch, columns], v[batch, columns]))
    change = instructed.u.float()[:, None, :, None] * instruction(own, keys, values)
    return out.index_add(0, batch, change.transpose(1, 2).flatten(2).to(out.dtype))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
