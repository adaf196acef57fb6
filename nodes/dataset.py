"""Concept Dataset: pictures in, what is wrong with them out, before anything is learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import folder_paths
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

from ..personalization.dataset import AUTO, ConceptDataset, dataset_of
from ..personalization.doctor import examine
from ..personalization.pictures import Picture, picture_from, read_pictures
from .sockets import CATEGORY
from .sockets import Dataset as DatasetSocket

EXAMPLE = "example"
EXAMPLE_PICTURES = Path(__file__).parent.parent / "example_workflows" / "pictures"
HOLDOUTS = [AUTO, "0", "1", "2", "3", "4", "5"]
ANY_SIZE = (8, 8)  # what depends on the size of training, Learn Concept tells


class ConceptDatasetNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_ConceptDataset",
            display_name="Concept Dataset",
            category=CATEGORY,
            description="3 to 20 pictures of one thing or one style. Says what is wrong with them before learning.",
            search_aliases=["training images", "training data", "reference images", "load folder", "dreambooth images"],
            is_input_list=True,
            has_intermediate_output=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="a folder inside input/, or a full path",
                    tooltip="Every picture in it is used: a folder inside ComfyUI's input folder, a full path, or "
                    "'example' for the pack's own five pictures. A .txt beside a picture is its caption, transparency "
                    "its mask.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="More pictures, as one batch or as a list of any sizes. More of them, from other sides and "
                    "in other places, make the concept less tied to one pose and background.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask per connected image, white on the subject: the less is white, the less of the "
                    "background is learned. An empty mask counts as none.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="One line per picture, in the order of file names, then of images. What a caption names is "
                    "less likely to be learned as part of the concept. Empty: captions are made by Learn Concept.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "holdout",
                    optional=True,
                    options=HOLDOUTS,
                    default=AUTO,
                    tooltip="Pictures that are never learned from, to tell learning from copying. More of them judge "
                    "better and leave less to learn from. auto: one from 4 pictures on, two from 8 on.",
                    advanced=True,
                ),
            ],
            outputs=[
                DatasetSocket.Output("dataset", tooltip="For Learn Concept."),
                io.String.Output("report", tooltip="What was read and held out, and what to improve."),
            ],
        )

    @classmethod
    def execute(
        cls,
        folder: list[str],
        images: Sequence[Tensor] = (),
        masks: Sequence[Tensor] = (),
        captions: Sequence[str] = ("",),
        holdout: Sequence[str] = (AUTO,),
    ) -> io.NodeOutput:
        given = _given(folder[0], _frames(images), _frames(masks))
        pictures = _captioned(given.pictures, captions[0].splitlines())
        dataset = dataset_of(pictures, holdout[0], given.unread)
        report = "\n".join(_report(dataset))
        return io.NodeOutput(dataset, report, ui={"text": (report,)})

    @classmethod
    def fingerprint_inputs(cls, folder: list[str], **inputs: object) -> list[tuple[str, int, int]]:
        """Changed when a file of the folder was added, removed or written."""
        where = _folder(folder[0])
        files = sorted(where.iterdir()) if where and where.is_dir() else ()
        return [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]


class _Given(NamedTuple):
    pictures: tuple[Picture, ...]
    unread: tuple[str, ...]


def _given(folder: str, frames: list[Tensor], masks: list[Tensor]) -> _Given:
    where = _folder(folder)
    read, unread = read_pictures(where) if where else ((), ())
    if masks and len(masks) != len(frames):
        raise ValueError(
            f"{len(masks)} masks came with {len(frames)} images; one per image is needed. "
            "Connect as many masks as images, or none."
        )
    matched = masks or [None] * len(frames)
    wired = (_picture(f"image {n + 1}", *pair) for n, pair in enumerate(zip(frames, matched, strict=True)))
    return _Given((*read, *wired), tuple(unread))


def _folder(folder: str) -> Path | None:
    """The folder that is meant: below input/, a full path, or the pack's own pictures; None when none is named."""
    if not folder.strip():
        return None
    below = Path(folder_paths.get_input_directory()) / folder.strip()
    return EXAMPLE_PICTURES if folder.strip() == EXAMPLE and not below.is_dir() else below


def _frames(batches: Iterable[Tensor]) -> list[Tensor]:
    return [frame for batch in batches if batch is not None for frame in batch]


def _picture(name: str, pixels: Tensor, mask: Tensor | None) -> Picture:
    if mask is None or not bool(mask.any()):
        return picture_from(name, pixels)
    if mask.shape != pixels.shape[:2]:
        mask = F.interpolate(mask[None, None], pixels.shape[:2], mode="bilinear")[0, 0]
    return picture_from(name, pixels, mask)


def _captioned(pictures: Sequence[Picture], lines: Sequence[str]) -> tuple[Picture, ...]:
    """An empty line leaves a picture the caption that stands beside its file."""
    if len(lines) > len(pictures):
        raise ValueError(
            f"{len(lines)} captions came with {len(pictures)} pictures; one line per picture is needed. "
            "Take out lines, or leave the captions empty."
        )
    given = {number: line.strip() for number, line in enumerate(lines) if line.strip()}
    return tuple(replace(one, caption=given.get(number, one.caption)) for number, one in enumerate(pictures))


def _report(dataset: ConceptDataset) -> tuple[str, ...]:
    return (*dataset.report(), *(finding.sentence for finding in examine(dataset, ANY_SIZE)))
