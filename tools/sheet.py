"""Contact sheets: titled rows of pictures, enlarged so that the playground's 64 pixels can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, TITLE, MARGIN = 192, 8, 26, 16
INK, FAINT, PAPER = (32, 32, 36), (110, 110, 118), (250, 249, 246)


class Row(NamedTuple):
    title: str
    note: str
    pictures: Sequence[Image.Image]


def sheet(heading: str, rows: Sequence[Row]) -> Image.Image:
    columns = max(len(row.pictures) for row in rows)
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + TITLE + len(rows) * (TITLE + CELL + GAP)), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), heading, INK, ImageFont.load_default(18))
    for number, row in enumerate(rows):
        _row(page, draw, MARGIN + TITLE + number * (TITLE + CELL + GAP), row)
    return page


def _row(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    font = ImageFont.load_default(14)
    draw.text((MARGIN, top + 6), row.title, INK, font)
    draw.text((page.width - MARGIN - draw.textlength(row.note, font), top + 6), row.note, FAINT, font)
    for column, picture in enumerate(row.pictures):
        page.paste(_cell(picture), (MARGIN + column * (CELL + GAP), top + TITLE))


def _cell(picture: Image.Image) -> Image.Image:
    """The whole picture in a square; small ones keep their pixels."""
    picture = picture.convert("RGB")
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shown = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(shown, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell
