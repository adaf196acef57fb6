"""What a model call is told beforehand.

Every model call gets one `Plan`: which rows of which samples belong to which concept and how strongly. Sampling and
training make the same plan and run the same functions. u and the windows are tensors, so that nothing waits for the
device and torch.compile does not bake a step into the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .composition import Composition, PlacedConcept
from .denoiser import Slots
from .guests import GUESTS, Presence
from .indices import indices, moved
from .parts import Part
from .parts.context_rows import ContextRows
from .parts.low_rank import LowRank
from .parts.nested_values import NestedValues
from .regions import WHOLE, Box, Seen, Twins, twins_of

Entry = tuple[int, int, int, float]  # (sample, row, slot, u)


class Chunk(NamedTuple):
    """One conditioning in a model call: samples `start` to `start + size`, whose own context has `length` rows."""

    start: int
    size: int
    slots: tuple[Slots, ...]
    length: int
    box: Box = WHOLE


class Call(NamedTuple):
    """One model call: its chunks, the tokens of its context (tiled copies included) and sigma per sample (b,)."""

    chunks: tuple[Chunk, ...]
    tokens: int
    sigma: Tensor


@dataclass(frozen=True)
class Places:
    """Where one concept's slots stand in a call, for one span of channels: tensors of k entries, `u` (k, 1).

    `wholly`: all of u is 1, which the host knows without asking the device.
    """

    placed: PlacedConcept
    channels: slice
    batch: Tensor
    token: Tensor
    slot: Tensor
    u: Tensor
    wholly: bool


class Window(NamedTuple):
    """Sigmas between which a concept acts: start >= sigma >= end."""

    start: float
    end: float


class Plan(NamedTuple):
    """What one model call needs to know at its sites."""

    everywhere: tuple[Places, ...] = ()
    regional: tuple[Places, ...] = ()
    twins: Twins | None = None  # of the regional ones
    present: tuple[Presence, ...] = ()  # of the concepts that bring tokens of their own
    low_rank: tuple[Presence, ...] = ()  # of those whose layers act here and are not in the weights
    valued: tuple[Places, ...] = ()  # of those whose word has a value of its own: one row per slot
    tokens: int = 0  # of the context that it is made for

    def valued_at(self, placed: PlacedConcept) -> Places:
        return next(one for one in self.valued if one.placed is placed)


def planned(
    composition: Composition,
    call: Call,
    spans: Mapping[str, slice],
    windows: Mapping[str, Window],
    merged: Collection[str] = (),
) -> Plan:
    """Where and how strongly every concept acts in this call; `spans` are the encoders' channels of the context.

    `merged` are the words whose low-rank layers are in the model's weights.
    """
    everywhere = _all_places([placed for placed in composition if placed.region is None], call, spans, windows)
    inside = [placed for placed in composition if placed.region is not None]
    regional = _all_places(inside, call, spans, windows)
    twins = [placed for placed in inside if placed.concept.has(ContextRows)]
    every = (*everywhere, *regional)
    present = tuple(_presence(own, call) for own in _with(GUESTS, every))
    active = tuple(_presence(own, call) for own in _with((LowRank,), every) if own[0].placed.word not in merged)
    valued = tuple(_valued(own[0].placed, call, spans, windows) for own in _with((NestedValues,), every))
    pairs = _twins(twins, call) if regional and twins else None
    return Plan(everywhere, regional, pairs, present, active, valued, call.tokens)


def planned_beside(
    composition: Composition, call: Call, spans: Mapping[str, slice], windows: Mapping[str, Window]
) -> Plan:
    """As `planned`, of a model into which nothing is merged: such layers act beside its weights in every sample."""
    merged = [one for one in composition if one.merges]
    plan = planned(composition, call, spans, windows, {one.word for one in merged})
    return plan._replace(low_rank=(*plan.low_rank, *(_everywhere(one, call) for one in merged)))


def _everywhere(placed: PlacedConcept, call: Call) -> Presence:
    u = torch.full_like(call.sigma, placed.strength, dtype=torch.float32)
    return Presence(placed, u, tuple((sample, WHOLE) for sample in range(len(u))))


def _with(kinds: tuple[type[Part], ...], places: Iterable[Places]) -> list[list[Places]]:
    """Per concept that has a part of these kinds its places: one, or one for each text encoder that differs."""
    own: dict[int, list[Places]] = {}
    for one in places:
        if one.placed.concept.has(*kinds):
            own.setdefault(id(one.placed), []).append(one)
    return list(own.values())


def _presence(places: Sequence[Places], call: Call) -> Presence:
    """A sample that says the word twice has the concept as strongly as it says it most strongly."""
    placed = places[0].placed
    u = call.sigma.new_zeros(call.sigma.shape[0], dtype=torch.float32)
    for one in places:
        u = u.scatter_reduce(0, one.batch, one.u[:, 0], "amax")
    boxes = [
        (sample, chunk.box)
        for chunk in call.chunks
        if any(slots.word == placed.word for slots in chunk.slots)
        for sample in range(chunk.start, chunk.start + chunk.size)
    ]
    wholly = placed.region is None and all(one.wholly for one in places)
    return Presence(placed, u, tuple(boxes), tuple(sorted(_spoken(placed, call))), wholly)


def _valued(placed: PlacedConcept, call: Call, spans: Mapping[str, slice], windows: Mapping[str, Window]) -> Places:
    """Its slots as the first text encoder reads them that has the word in the sample."""
    entries: list[Entry] = []
    for encoder in spans:
        seen = {sample for sample, *_ in entries}
        entries += [entry for entry in _entries(placed, call, encoder) if entry[0] not in seen]
    return _places(placed, entries, _joined(list(spans.values())), call, windows)


def _spoken(placed: PlacedConcept, call: Call) -> set[tuple[int, int]]:
    """(sample, row) wherever one of the text encoders reads its phrase, tiled copies included."""
    return {
        (sample, row + copy)
        for chunk in call.chunks
        for slots in chunk.slots
        if slots.word == placed.word
        for rows in (*slots.rows.values(), *slots.category.values())
        for row in rows
        for copy in range(0, call.tokens, chunk.length)
        for sample in range(chunk.start, chunk.start + chunk.size)
    }


def _all_places(
    composition: Iterable[PlacedConcept], call: Call, spans: Mapping[str, slice], windows: Mapping[str, Window]
) -> tuple[Places, ...]:
    return tuple(
        _places(placed, entries, _joined([spans[key] for key in encoders]), call, windows)
        for placed in composition
        for encoders in _together(placed.word, call.chunks, spans)
        if (entries := _entries(placed, call, encoders[0]))
    )


def _twins(composition: Sequence[PlacedConcept], call: Call) -> Twins:
    regions: list[tuple[Tensor, Box]] = []
    seen: set[Seen] = set()
    for placed, region in ((one, one.region) for one in composition if one.region is not None):
        for chunk in call.chunks:
            own = [slots for slots in chunk.slots if slots.word == placed.word]
            rows = {row for slots in own for each in slots.rows.values() for row in each}
            copies = [row + copy for row in sorted(rows) for copy in range(0, call.tokens, chunk.length)]
            samples = range(chunk.start, chunk.start + chunk.size)
            seen |= {Seen(sample, row, len(regions)) for sample in samples for row in copies}
            regions.append((region, chunk.box))
    return twins_of(sorted(seen), call.sigma.shape[0], regions, call.sigma.device)


def _together(word: str, chunks: Sequence[Chunk], spans: Mapping[str, slice]) -> list[list[str]]:
    """Encoders whose rows of the word are the same everywhere are edited in one go; usually that is all of them."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for encoder in spans:
        where = tuple(
            (number, slots.rows.get(encoder), slots.weights)
            for number, chunk in enumerate(chunks)
            for slots in chunk.slots
            if slots.word == word and encoder in slots.rows
        )
        if where:
            groups.setdefault(where, []).append(encoder)
    return list(groups.values())


def _entries(placed: PlacedConcept, call: Call, encoder: str) -> list[Entry]:
    """One for every slot, sample and tiled copy: row r of L rows is also r + L, ..."""
    count = max(placed.concept.info.slots, 1)
    return [
        (sample, row + copy, number % count, placed.strength * slots.weights[number // count])
        for chunk in call.chunks
        for slots in chunk.slots
        if slots.word == placed.word
        for number, row in enumerate(slots.rows.get(encoder, ()))
        for copy in range(0, call.tokens, chunk.length)
        for sample in range(chunk.start, chunk.start + chunk.size)
    ]


def _places(
    placed: PlacedConcept,
    entries: list[Entry],
    channels: slice,
    call: Call,
    windows: Mapping[str, Window],
) -> Places:
    device = call.sigma.device
    *where, strengths = zip(*entries, strict=True)
    batch, token, slot = indices(where, device).unbind()  # (k,) each
    u = moved(torch.tensor(strengths, dtype=torch.float32), device)[:, None]  # (k, 1)
    window = windows.get(placed.word)
    if window is not None:
        sigma = call.sigma[batch][:, None]
        u = u * ((sigma <= window.start) & (sigma >= window.end))
    return Places(placed, channels, batch, token, slot, u, window is None and set(strengths) == {1.0})


def _joined(spans: Sequence[slice]) -> slice:
    return slice(min(span.start for span in spans), max(span.stop for span in spans))
