"""What attention reads at a site in one model call: the plan's rows drawn in, and what concepts bring put behind.

The same for every host: its patch or processor asks here, projects what it gets, and lets site_attention.py finish.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .composition import PlacedConcept
from .guests import Instructed, Joint, Nested, Presence, appended, bring, joint
from .parts.context_rows import ContextRows, lerp_rows
from .parts.image_tokens import ImageTokens
from .parts.instruction import LatentInstruction
from .parts.nested_values import NestedValues
from .plan import Places, Plan
from .regions import Grid
from .rows import RowCache
from .site_attention import Expected, Watched
from .sites import Site


class Reading(NamedTuple):
    """Context and value (b, tokens, d) before to_k and to_v, what the attention is told, and who acts by it."""

    context: Tensor
    value: Tensor
    expected: Expected | None = None
    acting: tuple[PlacedConcept, ...] = ()


def with_image_tokens(context: Tensor, value: Tensor, site: Site, plan: Plan, grid: Grid, cache: RowCache) -> Reading:
    """attn1: the image tokens of the concepts that are present, behind the picture's own."""
    guests = bring(ImageTokens, site, plan.present)
    if not guests:
        return Reading(context, value)
    new = appended(context, guests, cache)
    expected = Expected(new.shape[1], joint=joint(guests, context.shape[1], grid, context))
    longer = new if value is context else appended(value, guests, cache)
    return Reading(new, longer, expected, tuple(presence.placed for presence, _ in guests))


def with_rows(context: Tensor, value: Tensor, site: Site, plan: Plan, cache: RowCache) -> Reading:
    """attn2: the rows of concepts without a region; where `value is context`, it stays true but for a focus."""
    apart = value is not context and value.shape == context.shape
    new = edited(context, site, plan.everywhere, cache)
    acting = () if new is context else _with_rows_at(site, (one.placed for one in plan.everywhere))
    value = edited(value, site, plan.everywhere, cache) if apart else new
    return Reading(focused(new, plan.everywhere), value, None, acting)


def with_guests(
    context: Tensor,
    value: Tensor,
    site: Site,
    plan: Plan,
    grid: Grid,
    cache: RowCache,
    watched: Watched | None = None,
) -> Reading:
    """attn2, after `with_rows`: rows that only a region sees, and banks."""
    tokens, twins, acting = context.shape[1], None, ()
    if plan.twins is not None:
        new = edited(context, site, plan.regional, cache)
        if new is not context:
            twins = Joint(plan.twins.bias(grid, tokens, context), plan.twins.touched, plan.twins.rest, tokens)
            wide = plan.twins.widen(context, new)
            apart = value is not context
            value = plan.twins.widen(value, edited(value, site, plan.regional, cache)) if apart else wide
            context = wide
            acting = _with_rows_at(site, (one.placed for one in plan.regional))
    own, others = (bring(kind, site, plan.present) for kind in (NestedValues, LatentInstruction))
    guests, start = [*own, *others], context.shape[1]
    columns = _columns(start, guests)
    nested = [_nested(plan, one, span, grid) for (one, _), span in zip(own, columns, strict=False)]
    instructed = [_instructed(one, span, grid) for (one, _), span in zip(others, columns[len(own) :], strict=True)]
    if guests:
        longer = appended(context, guests, cache)
        value, context = appended(value, guests, cache) if value is not context else longer, longer
        acting += tuple(presence.placed for presence, _ in guests)
    if not (twins or guests or watched):
        return Reading(context, value)
    banks = context.shape[1] - start
    expected = Expected(context.shape[1], banks, twins, tuple(nested), tuple(instructed), watched)
    return Reading(context, value, expected, acting)


def _with_rows_at(site: Site, concepts: Iterable[PlacedConcept]) -> tuple[PlacedConcept, ...]:
    return tuple(placed for placed in concepts if placed.concept.has(ContextRows, site=site))


def _columns(start: int, guests: Iterable[tuple[Presence, Tensor]]) -> list[slice]:
    """Where each bank (m, d) stands when they are put behind `start` tokens."""
    ends = list(accumulate((bank.shape[-2] for _, bank in guests), initial=start))
    return [slice(*span) for span in pairwise(ends)]


def _nested(plan: Plan, presence: Presence, columns: slice, grid: Grid) -> Nested:
    places = plan.valued_at(presence.placed)
    u, norm = places.u * presence.mask(grid)[places.batch], presence.placed.concept.info.value_norm
    return Nested(places.batch, places.token, u, columns, norm)


def _instructed(presence: Presence, columns: slice, grid: Grid) -> Instructed:
    return Instructed(presence.rows, presence.over(grid)[presence.rows], columns)


def edited(context: Tensor, site: Site, places: Iterable[Places], rows: RowCache) -> Tensor:
    """The context (b, tokens, d) that this site reads: every planned concept's rows drawn in."""
    for one in places:
        for part in one.placed.concept.parts:
            if isinstance(part, ContextRows) and site in part.rows:
                context = _drawn_in(context, part.rows[site], one, rows)
    return context


def focused(context: Tensor, places: Iterable[Places]) -> Tensor:
    """The context (b, tokens, d) that becomes keys, the words' logits times lambda (Nested Attention, 2501.01407).

    to_k has no bias in any family of ours, so a row times lambda is its column of the logits times lambda.
    """
    for one in places:
        if one.placed.focus != 1:
            context = _focused(context, one)
    return context


def _focused(context: Tensor, places: Places) -> Tensor:
    channels = torch.arange(context.shape[-1], device=context.device)[places.channels]
    where = (places.batch[:, None], places.token[:, None], channels)
    factor = 1 + places.u.clamp(max=1) * (places.placed.focus - 1)
    return context.index_put(where, context[where] * factor.to(context))


def _drawn_in(context: Tensor, master: Tensor, places: Places, cache: RowCache) -> Tensor:
    rows = cache.like(master, context)[..., places.channels]  # (slots, d) or, one concept per sample, (b, slots, d)
    rows = rows[places.batch, places.slot] if rows.ndim == 3 else rows[places.slot]  # (k, d)
    if rows.shape[-1] == context.shape[-1]:
        return lerp_rows(context, places.batch, places.token, rows, places.u)
    part = lerp_rows(context[..., places.channels], places.batch, places.token, rows, places.u)
    left, right = context[..., : places.channels.start], context[..., places.channels.stop :]
    return torch.cat((left, part, right), dim=-1)
