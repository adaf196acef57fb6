"""Where the pictures of a dataset come from: a folder, files that were dropped on the node, connected images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import folder_paths
from comfy.utils import ProgressBar
from torch import Tensor
from torch.nn import functional as F

from ..personalization.pictures import Picture, PictureError, files_of, picture_from, read_pictures

EXAMPLE = "example"
EXAMPLE_PICTURES = Path(__file__).parent.parent / "example_workflows" / "pictures"


class Given(NamedTuple):
    """Pictures, and a sentence for each file or image that is none."""

    pictures: tuple[Picture, ...]
    unread: tuple[str, ...]


class Wired(NamedTuple):
    """What IMAGE and MASK sockets of an input list bring: batches of any sizes."""

    images: Iterable[Tensor]
    masks: Iterable[Tensor]


def given(folder: str, listed: str, wired: Wired) -> Given:
    """The files of `folder` by name, those of `listed` in its order, then the connected images."""
    where = folder_of(folder)
    inside = files_of(where) if where else ()
    unread = [nothing_in(folder)] if where and not inside else []
    files = [*inside, *listed_files(listed)]
    read, sentences = read_pictures(_with_progress(files))
    connected = _connected(wired)
    return Given((*read, *connected.pictures), (*unread, *sentences, *connected.unread))


def nothing_in(folder: str) -> str:
    return f"The folder {folder} holds no picture; folders inside it are not read. Put pictures into it."


def folder_of(folder: str) -> Path | None:
    """The folder that is meant: below input/, a full path, or the pack's own pictures; None when none is named."""
    if not folder.strip():
        return None
    below = Path(folder_paths.get_input_directory()) / folder.strip()
    return EXAMPLE_PICTURES if folder.strip() == EXAMPLE and not below.is_dir() else below


def listed_files(listed: str) -> list[Path]:
    """Paths of "subfolder/name" entries, one a line, below input/ (or as in "name [output]"); each only once."""
    lines = (line.strip("\r").replace("\\", "/") for line in listed.split("\n"))
    return [_below_input(line) for line in dict.fromkeys(lines) if line.strip()]


def _inside(path: Path) -> Path:
    """ComfyUI 0.18 does not see to that itself."""
    folders = folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    if not any(path.is_relative_to(os.path.abspath(folder)) for folder in folders):
        raise ValueError(path)
    return path


def _below_input(entry: str) -> Path:
    try:
        return _inside(Path(os.path.abspath(folder_paths.get_annotated_filepath(entry))))
    except ValueError:
        raise PictureError(
            f"The picture {entry} lies outside ComfyUI's input folder. Drop it on the node, which copies it there, "
            "or name its folder."
        ) from None


def _with_progress(files: Sequence[Path]) -> Iterator[Path]:
    """Reading can be seen and interrupted: 200 photographs take a while."""
    bar = ProgressBar(len(files))
    for file in files:
        yield file
        bar.update(1)


def _connected(wired: Wired) -> Given:
    images, masks = _frames(wired.images), _frames(map(_as_batch, wired.masks))
    if masks and len(masks) != len(images):
        raise ValueError(
            f"{len(masks)} masks came with {len(images)} images; one per image is needed. "
            "Connect as many masks as images, or none."
        )
    pictures, unread = [], []
    for number, pixels in enumerate(images):
        try:
            pictures.append(_picture(f"image {number + 1}", pixels, masks[number] if masks else None))
        except PictureError as error:
            unread.append(str(error))
    return Given(tuple(pictures), tuple(unread))


def _as_batch(mask: Tensor | None) -> Tensor | None:
    """(n, h, w), also of the (h, w) and (n, 1, h, w) that other packs make."""
    return None if mask is None else mask.reshape(-1, *mask.shape[-2:])


def _frames(batches: Iterable[Tensor | None]) -> list[Tensor]:
    return [frame for batch in batches if batch is not None for frame in batch]


def _picture(name: str, pixels: Tensor, mask: Tensor | None) -> Picture:
    if mask is None or not bool(mask.any()):
        return picture_from(name, pixels)
    if mask.shape != pixels.shape[:2]:
        mask = F.interpolate(mask[None, None], pixels.shape[:2], mode="bilinear")[0, 0]
    return picture_from(name, pixels, mask)


def captioned(found: Given, lines: Sequence[str]) -> tuple[Picture, ...]:
    """By name, where every line begins with one as in "mug.jpg: a photo of {}", else in the pictures' order.

    An empty line leaves a picture the caption that stands beside its file.
    """
    pictures, written = found.pictures, list(filter(str.strip, lines))
    named = _by_name(written, (picture.name for picture in pictures))
    if len(named) == len(written):
        return tuple(replace(one, caption=named.get(one.name) or one.caption) for one in pictures)
    if lines and found.unread:
        raise ValueError(
            f"Captions belong to pictures by their order, and not all could be read. {' '.join(found.unread)} "
            "Or leave the captions empty."
        )
    if len(lines) > len(pictures):
        raise ValueError(
            f"{len(lines)} captions came with {len(pictures)} pictures; one line per picture is needed. "
            "Take out lines, or leave the captions empty."
        )
    lines = [*(line.strip() for line in lines), *[""] * (len(pictures) - len(lines))]
    return tuple(replace(one, caption=line or one.caption) for one, line in zip(pictures, lines, strict=True))


def _by_name(lines: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    parted, known = [line.partition(":") for line in lines], set(names)
    return {name.strip(): caption.strip() for name, _, caption in parted if name.strip() in known}
