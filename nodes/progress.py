"""Learning as it is seen from outside: ComfyUI's progress bar, with a picture of the concept from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from comfy.utils import ProgressBar
from torch import Tensor

from ..personalization.concept import Concept
from ..personalization.learned import Event, Planned, Preview, Step
from ..personalization.thumbnail import image_of

PREVIEW_SHARE = 0.2  # of the time since the start may go to pictures
PREVIEW_SIDE = 512


class LearningProgress:
    """Interrupts reach the learner from here too: the bar's hook raises them."""

    def __init__(self, node: str = "") -> None:
        self.node, self.bar = node, ProgressBar(1)
        self.began, self.spent, self.last = time.perf_counter(), 0.0, 0.0

    def __call__(self, event: Event, picture_of: Callable[[Concept], Tensor | None]) -> None:
        if isinstance(event, Step):
            self.bar.update_absolute(event.step, event.steps)
        elif isinstance(event, Preview) and self._has_time():
            self._show(event, picture_of)
        elif isinstance(event, Planned):
            self._say(event.sentence)

    def _say(self, sentence: str) -> None:
        """On the node, while it runs."""
        server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
        if server is not None and self.node:
            server.send_progress_text(sentence, self.node, server.client_id)

    def _has_time(self) -> bool:
        return self.spent + self.last <= PREVIEW_SHARE * (time.perf_counter() - self.began)

    def _show(self, event: Preview, picture_of: Callable[[Concept], Tensor | None]) -> None:
        began = time.perf_counter()
        picture = picture_of(event.concept)
        self.last = time.perf_counter() - began
        self.spent += self.last
        if picture is not None:
            self.bar.update_absolute(event.step, preview=("JPEG", image_of(picture), PREVIEW_SIDE))
