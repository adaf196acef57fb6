"""A finding of the data doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .pictures import Picture

FEW = 3


@dataclass(frozen=True)
class Finding:
    """One thing to look at: its kind, the pictures' names, and a sentence with what to do."""

    kind: str
    pictures: tuple[str, ...]
    sentence: str


def finding_on(kind: str, pictures: Sequence[Picture], sentence: str) -> Finding | None:
    """`sentence` has {} for the names; None where there are none."""
    names = names_of(pictures)
    return Finding(kind, names, sentence.format(", ".join(names))) if names else None


def names_of(pictures: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(picture.name for picture in pictures)
