"""The playground's judge beside the demo's pictures: how much they are the reference's mug, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from . import pack
from .sheet import Row


def with_scores(rows: Sequence[Row], class_word: str) -> list[Row]:
    """The first row holds the references; every other gets its mean identity against them, and its class as seen."""
    pack.load_pack()
    from concept_loom.playground.judge import load_judge  # pyright: ignore[reportMissingImports] - named by load_pack

    judge = load_judge("first")
    reference = judge.identity(_bytes(rows[0].pictures))
    shown = [rows[0]._replace(note=_note(reference, reference, None))]
    for row in rows[1:]:
        images = _bytes(row.pictures)
        seen = judge.attributes(images)["class"]
        right = sum(name == class_word for name in seen)
        shown.append(row._replace(note=_note(judge.identity(images), reference, f"{right}/{len(seen)} a {class_word}")))
    return shown


def _bytes(pictures: Sequence[Image.Image]):
    import torch

    return torch.from_numpy(np.stack([np.asarray(one.resize((64, 64))) for one in pictures]))


def _note(vectors, reference, seen: str | None) -> str:
    likeness = vectors @ reference.T
    if seen is None:  # the references among themselves, without each one's likeness to itself
        count = len(reference)
        return f"identity {float((likeness.sum() - count) / (count * (count - 1))):.2f}"
    return f"identity {float(likeness.mean()):.2f}, {seen}"
