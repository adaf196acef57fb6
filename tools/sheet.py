"""The demo's contact sheet: titled rows of pictures from the server, drawn as the pack draws its grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from . import pack


class Row(NamedTuple):
    """`captions` stand under their pictures; none, or one for each."""

    title: str
    note: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str] = ()


def save_sheet(heading: str, rows: Sequence[Row], path: Path) -> None:
    pack.register_pack()
    from concept_loom.personalization.grid import (  # pyright: ignore[reportMissingImports] - named by register_pack
        Cell,
        grid,
    )
    from concept_loom.personalization.grid import Row as Drawn  # pyright: ignore[reportMissingImports]
    from concept_loom.personalization.images import image_of, pixels_of  # pyright: ignore[reportMissingImports]

    def cells(row: Row) -> list:
        captions = [(caption,) for caption in row.captions] or [()] * len(row.pictures)
        shown = zip(map(pixels_of, row.pictures), captions, strict=True)
        return [Cell(picture, lines) for picture, lines in shown]

    drawn = grid(heading, (), [Drawn(row.title, row.note, cells(row)) for row in rows])
    image_of(drawn[0]).save(path)
