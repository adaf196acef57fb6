"""Triplets without labels (DRC, arXiv 2504.17349): anchor, same style, same semantics.

Same style = another picture of the same user's folder; same semantics = a style-perturbed copy of the anchor
(restyle.py). Both rules are ours.
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
from .restyle import restyled

LEAST = 2  # pictures of a user


class User(NamedTuple):
    """One sub-folder: pictures of one style."""

    name: str
    pictures: tuple[Picture, ...]


class Users(NamedTuple):
    """`unread` has a sentence for each file and folder that could not be used."""

    users: tuple[User, ...]
    unread: tuple[str, ...]

    @property
    def hash(self) -> str:
        """SHA-256 of who has which pictures, whatever the folders are called."""
        hashes = sorted(",".join(sorted(one.hash for one in user.pictures)) for user in self.users)
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def users_of(folder: Path) -> Users:
    """Every sub-folder with two pictures or more; PictureError where there are not two of those."""
    if not folder.is_dir():
        raise PictureError(f"There is no folder {folder}. Give a folder whose sub-folders hold one style each.")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    read = [(path.name, *read_pictures(files_of(path))) for path in inside]
    users = tuple(User(name, _in_order(pictures)) for name, pictures, _ in read if len(pictures) >= LEAST)
    few = [_few(name, len(pictures)) for name, pictures, _ in read if len(pictures) < LEAST]
    unread = (*(sentence for _, _, sentences in read for sentence in sentences), *few)
    if len(users) < LEAST:
        raise PictureError(
            f"The folder {folder.name} has {len(users)} sub-folders of at least {LEAST} pictures; {LEAST} are needed, "
            f"one per user or style. Sort the pictures into sub-folders by style. {' '.join(unread)}".strip()
        )
    return Users(tuple(sorted(users, key=lambda user: user.pictures[0].hash)), unread)


def _in_order(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    return tuple(sorted(pictures, key=lambda picture: picture.hash))


def _few(name: str, count: int) -> str:
    return f"The sub-folder {name} has {count} pictures and was left out; add at least {LEAST - count}."


@dataclass(frozen=True)
class Triplets:
    """N pictures as training sees them, on the CPU.

    `latents` (N, c, h, w), `tokens` (N, n, vision), `copies` (N, K, n, vision), `users` (N,), one caption each.
    """

    latents: Tensor
    tokens: Tensor
    copies: Tensor
    users: Tensor
    captions: tuple[str, ...]
    data_hash: str = ""


class Sizes(NamedTuple):
    """Sides in pixels, divisible by 8: of training, and of what the image encoder sees."""

    latents: int
    vision: int


Encode = Callable[[Tensor], Tensor]  # pictures (1, h, w, 3) in 0..1 -> latents or tokens of one


def triplets_of(users: Users, sizes: Sizes, copies: int, seed: int, encoders: tuple[Encode, Encode]) -> Triplets:
    """Every picture to latents and tokens (`encoders`), and `copies` style-perturbed ones of each to tokens."""
    latents, tokens = encoders
    owned = [(number, picture) for number, user in enumerate(users.users) for picture in user.pictures]
    generator = Generator().manual_seed(seed)
    square = (sizes.latents, sizes.latents)
    small = [view(picture, (sizes.vision, sizes.vision)).pixels for _, picture in owned]
    changed = list(_copies(small, [user for user, _ in owned], copies, generator))
    return Triplets(
        torch.cat([latents(view(picture, square).pixels[None]).float().cpu() for _, picture in owned]),
        torch.cat([tokens(one[None]) for one in small]),
        torch.stack([torch.cat([tokens(one[None]) for one in own]) for own in changed]),
        torch.tensor([user for user, _ in owned]),
        tuple(picture.caption for _, picture in owned),
        users.hash,
    )


def _copies(
    pictures: Sequence[Tensor], users: Sequence[int], copies: int, generator: Generator
) -> Iterator[list[Tensor]]:
    """Recoloured after pictures of other users, whose style is another one."""
    for number, picture in enumerate(pictures):
        others = [other for other, user in zip(pictures, users, strict=True) if user != users[number]]
        chosen = torch.randint(len(others), (copies,), generator=generator).tolist()
        yield [restyled(picture, others[one], generator) for one in chosen]
