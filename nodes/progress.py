"""Learning as it is seen from outside: ComfyUI's progress bar, the time left, a picture of the concept now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfy.utils import ProgressBar
from torch import Tensor

from ..personalization.concept import Concept
from ..personalization.curve import Curve
from ..personalization.images import image_of
from ..personalization.learned import Event, Masked, Planned, Preview, Started, Step
from ..personalization.outlook import outlook
from .page import tell

PREVIEW_SHARE = 0.2  # of the time since the start may go to pictures
PREVIEW_SIDE = 768
EVENT = "concept_loom.progress"  # {"node", "text", "curve", "workflow"}; an empty text when it is over
EVERY = 1.0  # seconds between two sentences


class LearningProgress:
    """Interrupts reach the learner from here too: the bar's hook raises them."""

    def __init__(self, node: str = "") -> None:
        self.node, self.bar = node, ProgressBar(1)
        self.first: Step | None = None
        self.curve = Curve()
        self.told = -EVERY
        self.began, self.spent, self.last = time.perf_counter(), 0.0, 0.0

    def __call__(self, event: Event, picture_of: Callable[[Concept], Tensor | None]) -> None:
        self.curve.add(event)
        if isinstance(event, Started):  # once more, on a clock that begins anew, where memory ran out
            self.first, self.told = None, -EVERY
        elif isinstance(event, Step):
            self.bar.update_absolute(event.step, event.steps)
            self._tell(event)
        elif isinstance(event, Preview) and self._has_time():
            self._show(event, picture_of)
        elif isinstance(event, Planned):
            self._say(event.sentence)
        elif isinstance(event, Masked):  # while there is still time to cancel
            self._draw(0, event.sheet)

    def close(self) -> None:
        """What was told no longer holds."""
        self._say("")

    def _say(self, text: str) -> None:
        if self.node:
            tell(EVENT, {"node": self.node, "text": text, "curve": self.curve.data() if text else None})

    def _tell(self, step: Step) -> None:
        self.first = self.first or step
        text = outlook(self.first, step)
        if text and step.seconds - self.told >= EVERY:
            self.told = step.seconds
            self._say(text)

    def _has_time(self) -> bool:
        return self.spent + self.last <= PREVIEW_SHARE * (time.perf_counter() - self.began)

    def _show(self, event: Preview, picture_of: Callable[[Concept], Tensor | None]) -> None:
        began = time.perf_counter()
        picture = picture_of(event.concept)
        self.last = time.perf_counter() - began
        self.spent += self.last
        if picture is not None:
            self._draw(event.step, picture)

    def _draw(self, step: int, picture: Tensor) -> None:
        self.bar.update_absolute(step, preview=("JPEG", image_of(picture[0]), PREVIEW_SIDE))
