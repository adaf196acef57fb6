"""The curve of a learning: the training loss in a few points, and every look at the held-out pictures."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from .learned import Event, Held, Started, Step

POINTS = 60
TRAINING = "Training loss over {} steps"
HELD_OUT = "; bold: loss on held-out pictures, its best marked"


class Curve:
    def __init__(self) -> None:
        self.taken: list[Step] = []
        self.held: list[Held] = []

    def add(self, event: Event) -> None:
        if isinstance(event, Started):  # once more, where memory ran out
            self.taken, self.held = [], []
        elif isinstance(event, Step):
            self.taken.append(event)
        elif isinstance(event, Held):
            self.held.append(event)

    def data(self) -> Mapping[str, object] | None:
        """JSON-ready: points (step, loss), each series on a scale of its own; None before the first step."""
        if not self.taken:
            return None
        steps = self.taken[-1].steps
        label = TRAINING.format(steps) + (HELD_OUT if self.held else ".")
        best = min(self.held, key=lambda one: one.loss).step if self.held else None
        held = [(one.step, one.loss) for one in self.held]
        return {"steps": steps, "label": label, "training": self._training(), "held_out": held, "best": best}

    def _training(self) -> list[tuple[int, float]]:
        """Means over stretches of equal length, so that the noise of single batches does not hide the way."""
        stretch = -(-len(self.taken) // POINTS)
        parts = [self.taken[start : start + stretch] for start in range(0, len(self.taken), stretch)]
        return [(part[-1].step, fmean(one.loss for one in part)) for part in parts]
