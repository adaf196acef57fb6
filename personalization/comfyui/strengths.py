"""The strength sheet: the same prompts and seeds at rising strengths, with what each brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from comfy.clip_vision import ClipVisionModel
from torch import Tensor

from ..asked import Asked, asked
from ..composition import PlacedConcept
from ..dataset import ConceptDataset
from ..fit import fits
from ..grid import Cell, Row, grid
from ..scores import marks
from ..strength import Advice, Rung, advised
from .canvas import Canvas
from .studio import Job, drawn, photographed, seen
from .trial import Effort, cut_drawn, cut_real, is_learned_from, real_of, texts_of, word_of_thing

NOTHING_TO_COMPARE = (
    "No strength is recommended: identity needs real pictures and an image encoder. Connect a dataset and a "
    "CLIP_VISION."
)

BY_TRAINING = (
    "The real pictures are those that it was learned from, and a copy of them is like them too: with 8 pictures two "
    "would be held out, or connect a dataset with others."
)


class StrengthSheet(NamedTuple):
    """`placed` is at the recommended strength where there is one; `sentence` says which and why."""

    sheet: Tensor  # (1, h, w, 3)
    placed: PlacedConcept
    sentence: str


class Reference(NamedTuple):
    """What strengths are judged by."""

    dataset: ConceptDataset | None
    vision: ClipVisionModel | None


def strength_sheet(
    canvas: Canvas, placed: PlacedConcept, strengths: Sequence[float], reference: Reference, effort: Effort, lines: str
) -> StrengthSheet:
    """Pictures of `lines` of prompts at `strengths`, of which the first is 0: the class word, bit for bit."""
    with torch.inference_mode(False):
        note = fits(placed.concept, canvas.base())
        prompts = asked(lines, placed)
        if not lines.strip():  # each is drawn at every strength
            prompts = (prompts[0], prompts[-1])
        columns = _columns(canvas, placed, prompts, strengths, effort)
        rungs, why = _judged(canvas, prompts, columns, strengths, reference, placed)
    advice = advised(rungs, placed.concept.info.strength) if rungs else Advice(None, NOTHING_TO_COMPARE)
    sentence = " ".join(filter(None, (advice.sentence, why, note)))
    sheet = grid(f"<{placed.word}> from strength 0 to {strengths[-1]:g}", [sentence], _rows(
        prompts, columns, strengths, rungs, advice, effort
    ))  # fmt: skip
    return StrengthSheet(sheet, _at(placed, advice), sentence)


def _at(placed: PlacedConcept, advice: Advice) -> PlacedConcept:
    if advice.strength is None:
        return placed
    info = replace(placed.concept.info, strength=advice.strength)
    return replace(placed, concept=replace(placed.concept, info=info), strength=advice.strength)


def _columns(
    canvas: Canvas, placed: PlacedConcept, prompts: Sequence[Asked], strengths: Sequence[float], effort: Effort
) -> list[Tensor]:
    """Per strength (prompts * seeds, h, w, 3), seeds fastest."""
    jobs = [
        Job(one.text, (replace(placed, strength=strength),), sitting)
        for strength in strengths
        for one in prompts
        for sitting in effort.sittings()
    ]
    return list(drawn(canvas, jobs).chunk(len(strengths)))


def _judged(
    canvas: Canvas,
    prompts: Sequence[Asked],
    columns: Sequence[Tensor],
    strengths: Sequence[float],
    reference: Reference,
    placed: PlacedConcept,
) -> tuple[list[Rung], str]:
    """What each strength brings, things cut out as in a trial, and what is to be known of these scores."""
    dataset, vision = reference
    if dataset is None or vision is None:
        return [], ""
    training, held_out = photographed(canvas, dataset.training), photographed(canvas, dataset.holdout)
    vectors = things = [seen(vision, column) for column in columns]
    if word := word_of_thing(placed):
        training = cut_real(canvas, training, dataset.training, word)
        held_out = cut_real(canvas, held_out, dataset.holdout, word)
        things = [seen(vision, cut_drawn(canvas, column, word)) for column in columns]
    real = real_of(vision, training, held_out, is_learned_from(placed, dataset))
    texts, why = texts_of(canvas.clip, prompts, vectors[0], len(columns[0]) // len(prompts))
    told = [marks(one, real, texts).text for one in vectors]
    scores = [marks(one, real, None).identity for one in things]
    known = " ".join(filter(None, (why, "" if len(real.held_out) else BY_TRAINING)))
    return [Rung(*one) for one in zip(strengths, scores, told, strict=True)], known


def _rows(
    prompts: Sequence[Asked],
    columns: Sequence[Tensor],
    strengths: Sequence[float],
    rungs: Sequence[Rung],
    advice: Advice,
    effort: Effort,
) -> list[Row]:
    """One row per prompt and seed; the means of all stand below the last."""
    last = len(columns[0]) - 1
    rows = []
    for place in range(len(columns[0])):
        prompt, number = divmod(place, effort.seeds)
        cells = [
            Cell(column[place], _caption(at, rungs[k] if rungs and place == last else None), at == advice.strength)
            for k, (at, column) in enumerate(zip(strengths, columns, strict=True))
        ]
        rows.append(Row(prompts[prompt].text, f"seed {effort.seed + number}", cells))
    return rows


def _caption(strength: float, rung: Rung | None) -> tuple[str, ...]:
    label = f"strength {strength:g}" if strength else "strength 0: class word"
    if rung is None:
        return (label,)
    mean = "mean " if len(rung.identity) > 1 else ""
    text = [] if rung.obedience is None else [f"{mean}text {rung.obedience:.3f}"]
    return (label, f"{mean}identity {rung.likeness:.3f}", *text)
