"""The server's events as lines on a terminal: which node works, and how far it is."""

from __future__ import annotations

import sys
import time
from typing import Any

from .client import Event

EVERY_SECONDS = 1.0


class Progress:
    def __init__(self, prompt: dict[str, Any]) -> None:
        self.titles = {key: node["class_type"] for key, node in prompt.items()}
        self.start = self.shown = time.monotonic()

    def show(self, event: Event) -> None:
        if event.type == "executing" and event.data.get("node"):
            self._line(self._title(event))
        elif event.type == "progress" and time.monotonic() - self.shown >= EVERY_SECONDS:
            self._line(f"{self._title(event)} {event.data['value']}/{event.data['max']}")

    def _title(self, event: Event) -> str:
        return self.titles.get(event.data.get("node", ""), "")

    def _line(self, text: str) -> None:
        self.shown = time.monotonic()
        print(f"{self.shown - self.start:6.1f} s  {text}", file=sys.stderr, flush=True)
