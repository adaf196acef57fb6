"""A catalogue: a folder per concept, learned one after the other; a bad folder never stops the rest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import comfy.model_management as host
import torch
from comfy.clip_vision import ClipVisionModel

from ..checkpoint import load
from ..composition import as_recommended
from ..dataset import ConceptDataset, dataset_of
from ..doctor import examine
from ..library import file_name
from ..pictures import files_of, read_pictures
from ..text_file import class_word_in
from ..wish import Wish
from .canvas import Canvas
from .captions import captioned
from .lesson import teach
from .trial import Effort, Tried, tried

log = logging.getLogger("concept_loom")

TOLD = (ValueError, OSError, RuntimeError, MemoryError, ArithmeticError)  # with a sentence of their own
SYSTEMS_OWN = ("__MACOSX", "@eaDir")  # what a Mac's archives and a NAS put beside folders


class Outcome(NamedTuple):
    """What became of one folder; `path` is the concept's file, None where it failed."""

    folder: Path
    path: Path | None
    sentence: str


def folders_in(folder: Path, output: Path) -> list[Path]:
    """The folders to learn from: its sub-folders with pictures, or itself. ValueError where there is nothing, or both.

    `output` may lie inside: what other programs have drawn of the concepts there is not learned from.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'. A folder with a folder per concept is needed. Name it.")
    every = sorted(one for one in folder.iterdir() if one.is_dir() and one != output and not _hidden(one))
    inside, own = list(filter(_holds_pictures, every)), files_of(folder)
    if inside and own:
        raise ValueError(
            f"The folder '{folder}' holds pictures and folders with pictures ({_names(inside)}). One folder per "
            "concept is needed, or the pictures of one concept. Move either elsewhere, or name one of the folders."
        )
    if not inside and not own:
        raise ValueError(
            f"The folder '{folder}' holds no pictures, and none of its folders does. One folder per concept "
            "is needed, or the pictures of one concept. Name another folder."
        )
    if inside and len(inside) < len(every):
        log.warning("Passed over, as they hold no pictures: %s.", _names(one for one in every if one not in inside))
    return inside or [folder]


def learned(
    canvas: Canvas, folders: Sequence[Path], wish: Wish, output: Path, caption: bool = False
) -> Iterator[Outcome]:
    """One outcome per folder, in order. What was learned before is not learned again; what was broken off goes on.

    `caption`: pictures that have no caption get one from the model first.
    """
    for folder in folders:
        try:
            dataset, own = dataset_in(folder), _wish_for(folder, wish)
            if caption:
                dataset = captioned(canvas, dataset, own.class_word, own.role)
            lesson = teach(canvas, dataset, own, [output], _in_silence)
        except TOLD as error:
            yield Outcome(folder, None, f"{error}")
        except host.InterruptProcessingException:  # an Exception before ComfyUI 0.19
            raise
        except Exception as error:  # one folder's own trouble, of whatever kind, never stops the rest
            log.exception("Learning from %s failed.", folder)
            yield Outcome(folder, None, f"unexpected {type(error).__name__}: {error}. Please report it with the log.")
        else:
            findings = (finding.sentence for finding in examine(dataset))
            captions = (f"Captions: {'; '.join(dataset.captions())}.",) if caption else ()
            yield Outcome(folder, lesson.path, " ".join((*lesson.sentences, *captions, *dataset.unread, *findings)))


def dataset_in(folder: Path) -> ConceptDataset:
    pictures, unread = read_pictures(folder)
    return dataset_of(pictures, unread=unread)


def evaluated(canvas: Canvas, file: Path, folder: Path, vision: ClipVisionModel | None, effort: Effort) -> Tried:
    """The concept of a file against the pictures of a folder; the note names those that could not be read."""
    dataset = dataset_in(folder)
    with torch.inference_mode(False):
        found = tried(canvas, as_recommended(load(file)), dataset, vision, effort)
    return found._replace(note=" ".join(filter(None, (found.note, *dataset.unread))))


def _hidden(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in SYSTEMS_OWN


def _holds_pictures(folder: Path) -> bool:
    try:
        return bool(files_of(folder))
    except OSError:  # told in its turn, with the rest
        return True


def _names(folders: Iterable[Path]) -> str:
    return ", ".join(one.name for one in folders)


def _wish_for(folder: Path, wish: Wish) -> Wish:
    word = class_word_in(folder, wish.class_word)
    return replace(wish, placeholder=wish.placeholder or file_name(folder.resolve().name), class_word=word)


def _in_silence(event: object, picture_of: Callable[..., object]) -> None:
    """Nobody watches; previews cost time."""
