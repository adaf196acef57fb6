"""The dataset of a concept: its pictures, which of them are held out, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .pictures import Picture, PictureError

AUTO = "auto"
ENOUGH = 8  # of fewer every one is needed: learning from 4 instead of 5 cost a third of the identity
HASH_SIDE = 8  # dHash of 64 bits
TWIN_BITS = 5  # of 64; re-encodings and light crops of one photograph stay below, other photographs do not
# Of both pictures' contrast: re-encoded, lightly cropped and turned ones were up to 0.106 apart; of other cut-outs with
# the same dHash 99 % were more than 0.16.
TWIN_COLOURS = 0.15


class Box(NamedTuple):
    """A crop in pixels: rows top..top+height, columns left..left+width."""

    top: int
    left: int
    height: int
    width: int


class View(NamedTuple):
    """A picture at training size: `pixels` (height, width, 3) and `mask` (height, width) or None, fp32 in 0..1."""

    pixels: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class ConceptDataset:
    """Pictures in the order of their pixels' hashes (so that names, wiring order, captions and masks change nothing),
    and the held-out ones.

    `unread` has a sentence for each file that could not be read.
    """

    pictures: tuple[Picture, ...]
    held_out: frozenset[int] = frozenset()
    unread: tuple[str, ...] = ()

    @property
    def training(self) -> tuple[Picture, ...]:
        return tuple(picture for i, picture in enumerate(self.pictures) if i not in self.held_out)

    @property
    def holdout(self) -> tuple[Picture, ...]:
        return tuple(self.pictures[i] for i in sorted(self.held_out))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of pixels, masks, captions and split."""
        parts = [picture.hash for picture in self.pictures] + [f"held {i}" for i in sorted(self.held_out)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def uncaptioned(self) -> ConceptDataset:
        """The same pictures and split for a method that reads no captions."""
        return replace(self, pictures=tuple(replace(picture, caption="") for picture in self.pictures))

    def captions(self) -> tuple[str, ...]:
        """A line for each picture, behind its name and in the order of these."""
        return tuple(f"{one.name}: {one.caption}" for one in sorted(self.pictures, key=lambda one: one.name))

    def report(self) -> tuple[str, ...]:
        """What was read, masked, captioned, held out and left out, a sentence each."""
        masked = sum(picture.mask is not None for picture in self.pictures)
        captioned = sum(bool(picture.caption) for picture in self.pictures)
        first = f"{_pictures(len(self.pictures))}, {masked} with a mask, {captioned} with a caption."
        return (first, self._holdout_sentence(), *self.unread)

    def _holdout_sentence(self) -> str:
        if self.held_out:
            names = ", ".join(picture.name for picture in self.holdout)
            return f"Held out and never trained on, to tell learning from copying: {names}."
        if len(self.pictures) < ENOUGH:
            at_once = "; holdout 1 does too, but learns from one picture less" if len(self.pictures) > 1 else ""
            return (
                f"With {_pictures(len(self.pictures))} none is held out, as every one is needed to learn from: "
                f"overfitting cannot be judged. {ENOUGH} or more pictures allow it{at_once}."
            )
        return "No picture is held out, as asked: overfitting cannot be judged."


def dataset_of(pictures: Sequence[Picture], holdout: str | int = AUTO, unread: Sequence[str] = ()) -> ConceptDataset:
    """The dataset of `pictures`; `holdout` is a number, or "auto": two from 8 pictures on."""
    if not pictures:
        missing = "No picture could be read; at least one is needed."
        raise PictureError(" ".join((missing, *unread, "Drop pictures on the node, connect some or name a folder.")))
    count = _auto_holdout(len(pictures)) if holdout == AUTO else int(holdout)
    if not 0 <= count < len(pictures):
        raise PictureError(
            f"{count} pictures are to be held out of {len(pictures)}; at least one must be left to learn from. "
            f"Hold out {len(pictures) - 1} at most, or add pictures."
        )
    ordered = tuple(sorted(pictures, key=lambda picture: (replace(picture, caption="", mask=None).hash, picture.hash)))
    return ConceptDataset(ordered, _split(ordered, count), tuple(unread))


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


def _auto_holdout(pictures: int) -> int:
    return 2 if pictures >= ENOUGH else 0


def _split(ordered: Sequence[Picture], count: int) -> frozenset[int]:
    """The first by hash, those without a twin first: a held-out copy of a training picture judges nothing."""
    twins = {i for pair in twins_of(ordered) for i in pair}
    return frozenset(sorted(range(len(ordered)), key=lambda i: (i in twins, i))[:count])


def twins_of(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Pairs of near-duplicates: by dHash (Krawetz 2013), the signs of horizontal differences of a tiny grey copy, and
    by their colours, as before plain white a few signs are all there is.
    """
    bits = torch.stack([dhash(picture.pixels) for picture in pictures])  # (n, 64)
    apart = (bits[:, None] != bits[None]).sum(-1)
    pairs = [(i, j) for i, j in (apart <= TWIN_BITS).nonzero().tolist() if i < j]
    seen = {i: colours(pictures[i].pixels) for i in {i for pair in pairs for i in pair}}
    return [(i, j) for i, j in pairs if same_colours(seen[i], seen[j])]


def dhash(pixels: Tensor) -> Tensor:
    """(h, w, 3) -> 64 bits."""
    grey = pixels.float().mean(-1)[None, None]
    tiny = F.interpolate(grey, (HASH_SIDE, HASH_SIDE + 1), mode="area")[0, 0]
    return (tiny[:, 1:] > tiny[:, :-1]).flatten()


def colours(pixels: Tensor) -> Tensor:
    """(h, w, 3) -> the means of 8 x 8 fields, (3, 8, 8)."""
    return F.interpolate(pixels.permute(2, 0, 1)[None].float(), (HASH_SIDE, HASH_SIDE), mode="area")[0]


def same_colours(a: Tensor, b: Tensor) -> bool:
    """|a - b| <= TWIN_COLOURS (|a - mean a| + |b - mean b|), means per channel."""
    contrast = sum((one - one.mean((1, 2), keepdim=True)).norm() for one in (a, b))
    return bool((a - b).norm() <= TWIN_COLOURS * contrast)


def fitting_box(picture: Picture, size: tuple[int, int]) -> Box:
    """The largest crop of the aspect of `size` (height, width), around the mask's centre or the middle."""
    height, width = picture.size
    scale = min(height / size[0], width / size[1])
    box_height, box_width = max(1, int(size[0] * scale)), max(1, int(size[1] * scale))
    row, column = _centre(picture)
    top = min(max(round(row - box_height / 2), 0), height - box_height)
    left = min(max(round(column - box_width / 2), 0), width - box_width)
    return Box(top, left, box_height, box_width)


def _centre(picture: Picture) -> tuple[float, float]:
    if picture.mask is None or not bool((picture.mask > 127).any()):
        return picture.size[0] / 2, picture.size[1] / 2
    places = (picture.mask > 127).nonzero().float()
    low, high = places.amin(0), places.amax(0)
    return float(low[0] + high[0] + 1) / 2, float(low[1] + high[1] + 1) / 2


def view(picture: Picture, size: tuple[int, int]) -> View:
    """The largest crop of `picture` that fits, resized to `size`, both divisible by 8."""
    if size[0] % 8 or size[1] % 8:
        raise PictureError(f"The training size {size[1]} x {size[0]} is not divisible by 8. Round both numbers.")
    box = fitting_box(picture, size)
    mask = None if picture.mask is None else _resized(picture.mask[..., None], box, size)[..., 0]
    return View(_resized(picture.pixels, box, size), mask)


def _resized(values: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """(h, w, c) uint8 -> (*size, c) fp32 in 0..1."""
    crop = values[box.top : box.top + box.height, box.left : box.left + box.width]
    crop = crop.permute(2, 0, 1)[None].float() / 255  # (1, c, h, w)
    if crop.shape[2:] != size:
        crop = F.interpolate(crop, size, mode="bicubic", antialias=True, align_corners=False)
    return crop[0].clamp(0, 1).permute(1, 2, 0).contiguous()
