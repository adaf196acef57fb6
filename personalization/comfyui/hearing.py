"""Which of our words a conditioning holds, and whether its rows are still what the CLIP made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoiser import Slots
from ..report import Run
from .concept_clip import ENCODED, KEY, Encoded

WHOLE = (0.0, 0.0, 1.0, 1.0)


class Heard(NamedTuple):
    """One conditioning of a step: its words, its own number of rows and its part of the picture."""

    slots: tuple[Slots, ...]
    length: int
    box: tuple[float, float, float, float]  # top, left, bottom, right, in 0..1


def heard_in(conds: list[list[dict] | None], x: Tensor, run: Run | None) -> dict[tuple[int, object], Heard]:
    """(list index, uuid) -> what the conditioning holds; never decided by list index alone."""
    heard = {}
    for index, cond in _each(conds):
        encoded = cond.get(KEY) or ENCODED.get(cond["cross_attn"])
        if isinstance(encoded, Encoded):
            slots = tuple(one for one in encoded.slots if intact(one, encoded.tensor, cond["cross_attn"]))
            heard[index, cond["uuid"]] = Heard(slots, cond["cross_attn"].shape[1], _box(cond.get("area"), x))
            if run is not None:
                _note(run, encoded, slots)
    return heard


def intact(slots: Slots, made: Tensor | None, arrived: Tensor) -> bool:
    """Whether the word's rows arrived as they were made: Average and Zero Out change them, Concat appends to them."""
    if made is None or arrived is made:
        return True
    rows = sorted({row for rows in slots.rows.values() for row in rows})
    if made.shape[-1] != arrived.shape[-1] or rows[-1] >= arrived.shape[1]:
        return False
    return torch.equal(arrived[:1, rows].to(made), made[:1, rows])


def _each(conds: list[list[dict] | None]) -> Iterator[tuple[int, dict]]:
    """Conditionings that run with their own text: area fill copies one dictionary around another's model_conds."""
    for index, each in enumerate(conds):
        for cond in each or ():
            used = cond["model_conds"].get("c_crossattn")
            if cond.get("cross_attn") is not None and used is not None and used.cond is cond["cross_attn"]:
                yield index, cond


def _note(run: Run, encoded: Encoded, slots: tuple[Slots, ...]) -> None:
    run.woven = True
    run.encoded |= encoded.known
    written = {one.word for one in encoded.slots}
    run.written |= written
    run.lost |= written - {one.word for one in slots}


def _box(area: tuple[int, ...] | None, x: Tensor) -> tuple[float, float, float, float]:
    if not area:
        return WHOLE
    (height, width), (top, left), (h, w) = area[:2], area[2:], x.shape[-2:]
    return (top / h, left / w, min(top + height, h) / h, min(left + width, w) / w)
