"""What learning says on its way and in the end: events, the result, and a sentence in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from torch import Tensor

from .concept import Concept

WINDOW = 10  # steps over which training losses are averaged before they are compared
TOO_FEW = "one picture is too few to choose by: hold out two of 8 or more"
JUDGES_ONLY = "it only judges here (setting: keeps_best)"


class Planned(NamedTuple):
    """What learning needs of the memory that there is, before its first step."""

    sentence: str


class Masked(NamedTuple):
    """The pictures, as a sheet (1, h, w, 3), under the soft masks that they are about to be learned with."""

    sheet: Tensor


class Started(NamedTuple):
    """`held_out` pictures watch over `steps` steps."""

    steps: int
    held_out: int


class Step(NamedTuple):
    step: int
    steps: int
    loss: float
    seconds: float  # since the start


class Held(NamedTuple):
    """The held-out loss in units of the starting concept's: 1 = nothing learned yet, lower is better."""

    step: int
    loss: float
    best: bool


class Preview(NamedTuple):
    """A good moment to show what `concept` (a copy) looks like by now."""

    step: int
    concept: Concept


Event = Planned | Masked | Started | Step | Held | Preview


@dataclass(frozen=True)
class Learned:
    """`concept` is the state of `best_step`; at most `steps` were planned, `len(losses)` taken, `began` of them before.

    `prediction_seconds` is what a prediction for one sample took here, infinity where no step was taken.
    """

    concept: Concept
    losses: tuple[float, ...]
    held: tuple[Held, ...]
    best_step: int
    steps: int
    finished: bool
    sentence: str
    began: int
    prediction_seconds: float


class LearningDiverged(ArithmeticError):
    """Training met NaN or infinity. `last_good` is the last sound state, never marked as finished."""

    def __init__(self, sentence: str, last_good: Learned) -> None:
        super().__init__(sentence)
        self.last_good = last_good


def told(losses: Sequence[float], held: Sequence[Held], steps: int, finished: bool, kept: int, keeps_best: bool) -> str:
    """What happened: how far it got, which step is kept and why."""
    until = f"{steps} steps" if finished else f"{len(losses)} of {steps} steps, stopped early"
    if not held:
        return f"Learned in {until}; no picture was held out, so overfitting cannot be judged."
    if all(one.step != kept for one in held):
        return f"Learned in {until}; there was no time to judge it on the held-out pictures."
    best = min(held, key=lambda one: one.loss)
    if kept != best.step:
        why = TOO_FEW if keeps_best else JUDGES_ONLY
        return f"Learned in {until}; the last is kept. What was held out came nearest at step {best.step}, but {why}."
    if best.step == 0:
        return f"Nothing useful was learned in {until}: on held-out pictures the class word alone stayed best."
    better = f"{1 - best.loss:.1%} closer to the held-out pictures than the class word"
    if best.step == held[-1].step:
        return f"Learned in {until}; the last is the best, {better}."
    return f"Learned in {until}; step {best.step} was the best and is kept, {better}; {_later(losses, best.step)}."


def ended_early(began: Sequence[int], taken: int, planned: Sequence[int], finished: bool) -> str:
    """Which stages ended before their planned steps because they brought nothing more; empty where none did.

    `began` holds the step before each stage so far, `taken` the steps of all; the last stage counts once `finished`.
    """
    ends = [*began[1:], taken]
    stages = [(end - start, most) for start, end, most in zip(began, ends, planned, strict=False)]
    ended = stages if finished else stages[:-1]
    early = [f"stage {n} after {steps} of {most} steps" for n, (steps, most) in enumerate(ended, 1) if steps < most]
    return f" Ended early, as the held-out pictures came no closer: {', '.join(early)}." if early else ""


def _later(losses: Sequence[float], best: int) -> str:
    """Copying is what it is only where the training loss went on falling."""
    fell = fmean(losses[-WINDOW:]) < fmean(losses[max(0, best - WINDOW) : best])
    return "later steps only copied the training pictures" if fell else "later steps brought nothing more"
