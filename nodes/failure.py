"""A learning that fails: its sentence for ComfyUI's error dialog, and report.txt beside the concepts."""

from __future__ import annotations

import getpass
import platform
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import comfy.model_management as host
import comfy.model_patcher
from torch import Tensor

from ..personalization.comfyui.lesson import Show
from ..personalization.comfyui.machine import machine, model_facts
from ..personalization.concept import Concept
from ..personalization.dataset import ConceptDataset
from ..personalization.failure import RECENT, Failure, report_of, sentence_of
from ..personalization.learned import Event, Held, Step
from ..personalization.wish import Wish
from . import folders

REPORT = "report.txt"


class LearningFailed(Exception):
    """What ComfyUI's error dialog shows; the cause is chained."""


@contextmanager
def explained(
    show: Show, wish: Wish, dataset: ConceptDataset, model: comfy.model_patcher.ModelPatcher
) -> Iterator[Show]:
    """Yields `show`, watched; what fails inside is raised again as its sentence and where the report is."""
    steps: deque[Step] = deque(maxlen=RECENT)
    held: deque[Held] = deque(maxlen=RECENT)

    def watched(event: Event, picture_of: Callable[[Concept], Tensor]) -> None:
        if isinstance(event, Step):
            steps.append(event)
        elif isinstance(event, Held):
            held.append(event)
        show(event, picture_of)

    try:
        yield watched
    except host.InterruptProcessingException:  # an Exception before ComfyUI 0.19
        raise
    except Exception as error:
        settings = {**asdict(wish), "placeholder": "not told", **model_facts(model)}
        failure = Failure(error, machine(), settings, dataset, steps, held, _names())
        told = sentence_of(error, steps[-1].step if steps else 0)
        raise LearningFailed(f"{told} {_written(report_of(failure))}") from error


def _written(report: str) -> str:
    try:
        folders.written_to().mkdir(parents=True, exist_ok=True)
        (folders.written_to() / REPORT).write_text(report, encoding="utf-8")
    except OSError as error:
        return f"No report could be written ({error.strerror})."
    return f"What helps to find the cause is in output/{folders.CONCEPTS}/{REPORT}, without paths, names or pictures."


def _names() -> list[str]:
    names = [platform.node(), Path.home().name]
    with suppress(KeyError, OSError, ImportError):  # a user without an entry, a system without users
        names.append(getpass.getuser())
    return names
