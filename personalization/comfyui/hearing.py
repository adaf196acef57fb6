"""Which of our words a conditioning holds, and whether its rows are still what the CLIP made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..composition import Composition
from ..denoiser import Slots
from ..regions import WHOLE, Box
from ..report import Run
from .concept_clip import ENCODED, KEY, Encoded, content_hash
from .spoken import MEMORY, rows_per_token


class Heard(NamedTuple):
    """One conditioning of a step: each of its contexts' words, their number of tokens and its part of the picture.

    It has one context for all samples, or as an animation's one per frame. Where words stand is counted in tokens.
    """

    frames: tuple[tuple[Slots, ...], ...]
    length: int
    box: Box
    rows: int = 1  # of the conditioning for each token

    @property
    def words(self) -> set[str]:
        return {slots.word for frame in self.frames for slots in frame}


class Read(NamedTuple):
    """A conditioning's contexts, or a window's of an animation, and the slots of each under the MODEL's words."""

    arrived: Tensor
    slots: tuple[tuple[Slots, ...], ...]
    rows: int  # for each token


@dataclass
class Hearing:
    """What one sampling hears; every conditioning is read once, for comparing tensors waits for the device."""

    composition: Composition
    spans: Mapping[str, slice]
    run: Run
    _read: dict[object, list[Read]] = field(default_factory=dict)  # by uuid, which the windows of an animation share

    def heard_in(
        self, conds: list[list[dict] | None], x: Tensor, frames: Sequence[int] = ()
    ) -> dict[tuple[int, object], Heard]:
        """(list index, uuid) -> what the conditioning holds; never decided by list index alone.

        `frames` has the numbers of those in `x`, where the host samples an animation some at a time.
        """
        heard = {}
        for index, cond, source in _each(conds):
            arrived = source["cross_attn"]
            read = self._read_of(source, arrived, frames)
            length = arrived.shape[1] // read.rows
            heard[index, cond["uuid"]] = Heard(read.slots, length, _box(cond.get("area"), x), read.rows)
        return heard

    def _read_of(self, cond: dict, arrived: Tensor, frames: Sequence[int]) -> Read:
        known = self._read.setdefault(cond["uuid"], [])
        read = next((one for one in known if same(one.arrived, arrived)), None)
        if read is None:
            slots = self._contexts(arrived, ENCODED.get(arrived) or cond.get(KEY))
            read = Read(arrived, slots, rows_per_token(arrived))
            known.append(read)
        if len(frames) == len(arrived):
            self._count(read.slots, frames)
        elif len(arrived) > 1:
            self._count(read.slots, range(len(arrived)))
        return read

    def _contexts(self, arrived: Tensor, encoded: object) -> tuple[tuple[Slots, ...], ...]:
        """The slots of every context (1, tokens, d); equal ones in a row are read once."""
        if len(arrived) == 1:
            return (self._slots(arrived, encoded),)
        read: list[tuple[Slots, ...]] = []
        for at in range(len(arrived)):
            again = at and torch.equal(arrived[at], arrived[at - 1])
            read.append(read[-1] if again else self._slots(arrived[at : at + 1], encoded))
        return tuple(read)

    def _count(self, contexts: Sequence[tuple[Slots, ...]], frames: Sequence[int]) -> None:
        self.run.animated.update(frames)
        for number, slots in zip(frames, contexts, strict=True):
            for one in slots:
                self.run.frames.setdefault(one.word, set()).add(number)

    def _slots(self, arrived: Tensor, encoded: object) -> tuple[Slots, ...]:
        if not isinstance(encoded, Encoded):
            found = tuple(MEMORY.find(arrived, self.spans, self._hashes.values(), surely=True))
            return self._noted(found, {one.word: one.concept for one in found})
        kept = tuple(one for one in encoded.slots if intact(one, encoded.tensor, arrived))
        if encoded.tensor is not None and encoded.tensor is not arrived:
            kept = (*kept, *self._moved(arrived, kept))
        self.run.aside |= encoded.aside
        written = {self._owner(one.word, one.concept) for one in encoded.slots}
        here = self._noted(kept, encoded.known)
        self.run.lost |= {word for word in written if word} - {one.word for one in here}
        return here

    def _moved(self, arrived: Tensor, kept: tuple[Slots, ...]) -> Iterator[Slots]:
        """Phrases beside those that stand where the CLIP put them: Concat appends another prompt's."""
        taken = {(encoder, row) for one in kept for encoder, rows in one.rows.items() for row in rows}
        for found in MEMORY.find(arrived, self.spans, self._hashes.values(), surely=False):
            if taken.isdisjoint((encoder, row) for encoder, rows in found.rows.items() for row in rows):
                yield found

    def _noted(self, slots: tuple[Slots, ...], known: Mapping[str, str]) -> tuple[Slots, ...]:
        """The slots that belong to the MODEL's concepts, under its words."""
        for word, concept in known.items():
            if owner := self._owner(word, concept):
                self.run.known.add(owner)
            elif word in self._hashes:
                self.run.strangers.add(word)
        named = ((self._owner(one.word, one.concept), one) for one in slots)
        here = tuple(one._replace(word=owner) for owner, one in named if owner)
        self.run.written |= {one.word for one in here}
        return here

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {placed.word: content_hash(placed.concept) for placed in self.composition}

    def _owner(self, word: str, concept: str) -> str:
        """The MODEL's word for a concept of the CLIP: by its content, for either may have renamed it. "" = none."""
        own = self._hashes.get(word)
        if own == concept or "" in (own, concept):  # a concept that is being trained has no content to go by
            return word if own is not None else ""
        same = [other for other, content in self._hashes.items() if content == concept]
        return same[0] if len(same) == 1 else ""


def intact(slots: Slots, made: Tensor | None, arrived: Tensor) -> bool:
    """Whether the word's rows arrived as they were made: Average and Zero Out change them, Concat appends to them."""
    if made is None or arrived is made:
        return True
    rows = sorted({row for rows in slots.rows.values() for row in rows})
    if made.shape[-1] != arrived.shape[-1] or rows[-1] >= arrived.shape[1]:
        return False
    return torch.equal(arrived[:1, rows].to(made), made[:1, rows])


def _each(conds: list[list[dict] | None]) -> Iterator[tuple[int, dict, dict]]:
    """(list index, conditioning, whose text it runs with), where there is a text.

    Nearly always its own. But where one list has areas that another lacks, the host fills them: with copies of the
    other's dictionaries around `model_conds` of this list.
    """
    for index, each in enumerate(conds):
        texts = [cond for cond in each or () if cond.get("cross_attn") is not None]
        for cond in texts:
            if source := _source(cond, texts):
                yield index, cond, source


def _source(cond: dict, texts: Sequence[dict]) -> dict | None:
    used = cond["model_conds"].get("c_crossattn")
    if used is None:
        return None
    own_first = (cond, *texts)
    very = (one for one in own_first if one["cross_attn"] is used.cond)  # two prompts may be encoded alike
    alike = (one for one in own_first if same(one["cross_attn"], used.cond))  # windows cut each of the two anew
    return next(very, None) or next(alike, None)


def same(one: Tensor, other: Tensor) -> bool:
    """Windows over an animation are cut anew in every step; then the device is asked."""
    return one is other or (one.shape == other.shape and one.device == other.device and torch.equal(one, other))


def _box(area: tuple[int, ...] | None, x: Tensor) -> Box:
    if not area:
        return WHOLE
    (height, width), (top, left), (h, w) = area[:2], area[2:], x.shape[-2:]
    return (top / h, left / w, min(top + height, h) / h, min(left + width, w) / w)
