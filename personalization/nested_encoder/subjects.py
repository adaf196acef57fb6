"""What a nested encoder is trained on: a folder of a domain, whose sub-folders each show one subject.

The encoder is shown a crop of a picture, and what is drawn is the fuller picture or, where there is one, another of the
same subject (Nested Attention, arXiv 2501.01407, has the former). A picture beside the sub-folders is a subject alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..dataset import view
from ..pictures import Picture, PictureError, files_of, read_pictures
from ..text_file import class_word_in

LEAST = 2  # subjects: of a single one an encoder would learn nothing but that one
SMALLEST = 0.6  # share of a side that a crop keeps at least


class Subject(NamedTuple):
    class_word: str
    pictures: tuple[Picture, ...]


class Subjects(NamedTuple):
    """`unread` has a sentence for each file that could not be used."""

    subjects: tuple[Subject, ...]
    unread: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of which pictures belong together under which class word, whatever the folders are called."""
        told = sorted(",".join((one.class_word, *sorted(p.hash for p in one.pictures))) for one in self.subjects)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def subjects_of(folder: Path, class_word: str) -> Subjects:
    """Every sub-folder and every picture beside them; PictureError where that is fewer than two subjects."""
    if not folder.is_dir():
        raise PictureError(f"There is no folder {folder}. Give one whose sub-folders hold one subject each.")
    loose, unread = read_pictures(files_of(folder))
    found = [Subject(class_word, (picture,)) for picture in loose]
    for inside in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        pictures, sentences = read_pictures(files_of(inside))
        unread = (*unread, *sentences)
        if pictures:
            word = class_word_in(inside, class_word)
            found.append(Subject(word, tuple(sorted(pictures, key=lambda picture: picture.hash))))
    if len(found) < LEAST:
        raise PictureError(
            f"The folder {folder.name} shows {len(found)} subject{'' if len(found) == 1 else 's'}; at least {LEAST} "
            "are needed, and an encoder gets better with hundreds. Put the pictures of each subject into a sub-folder, "
            f"or pictures of one subject each side by side. {' '.join(unread)}".strip()
        )
    return Subjects(tuple(sorted(found, key=lambda subject: subject.pictures[0].hash)), unread)


@dataclass(frozen=True)
class Views:
    """N pictures of K crops each as training sees them, on the CPU.

    `latents` (N, c, h, w), `tokens` (N, K, n, vision) in half precision, `subjects` (N,) their numbers, a caption each,
    and a class word per subject.
    """

    latents: Tensor
    tokens: Tensor
    subjects: Tensor
    captions: tuple[str, ...]
    class_words: tuple[str, ...]


class Sizes(NamedTuple):
    """Sides in pixels, divisible by 8: of training, and of what the image encoder sees."""

    latents: int
    vision: int


Encode = Callable[[Tensor], Tensor]  # pictures (1, h, w, 3) in 0..1 -> latents or tokens of one


def views_of(
    subjects: Sequence[Subject], sizes: Sizes, crops: int, seed: int, encoders: tuple[Encode, Encode]
) -> Views:
    """Every picture to latents and `crops` of it to tokens (`encoders`)."""
    latents, tokens = encoders
    owned = [(number, picture) for number, subject in enumerate(subjects) for picture in subject.pictures]
    generator, square = Generator().manual_seed(seed), (sizes.latents, sizes.latents)
    seen = [torch.cat([tokens(one[None]) for one in _crops(p, sizes.vision, crops, generator)]) for _, p in owned]
    return Views(
        torch.cat([latents(view(picture, square).pixels[None]).float().cpu() for _, picture in owned]),
        torch.stack(seen).half(),
        torch.tensor([number for number, _ in owned]),
        tuple(picture.caption for _, picture in owned),
        tuple(subject.class_word for subject in subjects),
    )


def _crops(picture: Picture, side: int, count: int, generator: Generator) -> Iterator[Tensor]:
    """Squares (side, side, 3) anywhere in the picture, the whole of it first."""
    whole = view(picture, (side, side)).pixels
    yield whole
    for _ in range(count - 1):
        scale, down, right = torch.rand(3, generator=generator).tolist()
        edge = max(1, round(side * (SMALLEST + (1 - SMALLEST) * scale)))
        top, left = round(down * (side - edge)), round(right * (side - edge))
        crop = whole[top : top + edge, left : left + edge].movedim(-1, 0)[None]
        enlarged = torch.nn.functional.interpolate(crop, (side, side), mode="bicubic", antialias=True)
        yield enlarged[0].movedim(0, -1).clamp(0, 1)
