"""What the nodes share that train small networks over CLIP_VISION once, and that ask them afterwards."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ..personalization.library import file_name
from ..personalization.network_training import BATCH_SIZE, LEARNING_RATE, STEPS
from ..personalization.pictures import PictureError
from ..personalization.recipe import Range
from . import folders
from .learn import rate_input, seed_input, whole
from .pictures import folder_of
from .progress import LearningProgress

# What they run is imported where it runs: ComfyUI's start need not wait for it.
if TYPE_CHECKING:
    from ..personalization.comfyui.network_course import NetworkCourse

log = logging.getLogger("concept_loom")

cancelled: Counter[str] = Counter()  # by node id, as in Learn Concept


def canvas_inputs(through: str) -> list[io.Input]:
    """`through` says what looks through the CLIP_VISION: "the towers look"."""
    return [
        io.Model.Input("model", tooltip="The model to train for. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.ClipVision.Input(
            "clip_vision", tooltip=f"What {through} through. The same one will be needed with the file."
        ),
    ]


def folder_input(tooltip: str) -> io.Input:
    return io.String.Input("folder", default="", placeholder="a folder inside input/, or a full path", tooltip=tooltip)


def training_inputs(name: str, tokens: Range, told: str) -> list[io.Input]:
    """`told` is the tooltip of `tokens`."""
    return [
        io.String.Input("name", default=name, tooltip="The file's name. A name that is taken gets a number."),
        seed_input("Another seed trains again and comes out slightly different."),
        whole("steps", STEPS, "0: as many as the model's family usually takes. More learn more, take longer."),
        whole("tokens", tokens, told),
        whole("batch_size", BATCH_SIZE, "0: the family's own. More learn more steadily and need more memory."),
        rate_input(LEARNING_RATE, "0: the family's own. Higher learns faster; too high ends in noise."),
    ]


def file_input(name: str, kind: str, node: str) -> io.Input:
    return io.Combo.Input(
        name,
        options=folders.known_files(kind),
        tooltip=f"Files of {node} in models/{kind} and output/{kind}. Press R to refresh the list, or connect {node}.",
    )


def named_folder(folder: str, inside: str) -> Path:
    """`inside` says what the folder holds, for the sentence of the PictureError where none was named."""
    where = folder_of(folder)
    if where is None:
        raise PictureError(
            f"No folder was named; one is needed {inside}. Name a folder inside input/, or give a full path."
        )
    return where


def state_of_folder(node: str, folder: str | None, patterns: Iterable[str]) -> list[tuple[object, ...]]:
    """Changed when a file was added, removed or written, and after a cancel."""
    where = folder_of(folder or "")  # None: it comes from another node, whose changes the host sees
    files = [file for one in patterns for file in sorted(where.glob(one))] if where and where.is_dir() else []
    return [(cancelled[node],), *((file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())]


def taught(node: str, course: NetworkCourse, name: str, kind: str) -> io.NodeOutput:
    from ..personalization.comfyui.network_course import teach_network

    progress, where = LearningProgress(), folders.all_folders(kind)
    lesson = teach_network(course, file_name(name), where, lambda step: progress(step, lambda concept: None))
    if not lesson.finished:
        cancelled[node] += 1
    file = folders.name_of(lesson.path, kind)
    text = "\n".join((*lesson.sentences, f"The file is {kind}/{file}."))
    log.info(text)
    return io.NodeOutput(file, {"loss": list(lesson.losses)}, ui={"text": (text,)})


def file_of(name: str, kind: str, node: str) -> Path:
    found = folders.path_of(name, kind) if name else None
    if found is None:
        raise ValueError(
            f"The file '{name}' is not in models/{kind} or output/{kind}. One is needed. "
            f"Copy it there and press R, or make one with {node}."
        )
    return found


def is_there(name: str | None, kind: str, node: str) -> bool | str:
    """For validate_inputs; naming the input there takes the place of ComfyUI's own "value not in list"."""
    if name is None:  # it comes from another node, and execute will judge it
        return True
    try:
        return bool(file_of(name, kind, node))
    except ValueError as error:
        return str(error)


def state_of_file(name: str | None, kind: str, node: str) -> tuple[int, int]:
    if name is None:
        return 0, 0
    state = file_of(name, kind, node).stat()
    return state.st_mtime_ns, state.st_size


def frames(batches: Iterable[Tensor]) -> list[Tensor]:
    """Each picture (h, w, 3) of batches of any sizes."""
    return [frame[..., :3] for batch in batches for frame in batch]
