"""The grid: titled rows of captioned pictures on one sheet, for people who compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .images import image_of, pixels_of

CELL, GAP, MARGIN = 256, 14, 28
HEADING, TITLE, LINE = 26, 17, 14  # sizes of lettering in pixels
INK, FAINT, PAPER = (32, 32, 36), (112, 112, 120), (250, 249, 246)
ACCENT, ALARM = (70, 130, 255), (190, 70, 30)
FRAME = 5


class Cell(NamedTuple):
    """`picture` is (h, w, 3) in 0..1; `marked` ones are framed. `warning` stands below the other lines."""

    picture: Tensor
    lines: tuple[str, ...] = ()
    marked: bool = False
    warning: str = ""


class Row(NamedTuple):
    title: str
    note: str
    cells: Sequence[Cell]


def grid(heading: str, notes: Sequence[str], rows: Sequence[Row]) -> Tensor:
    """(1, h, w, 3) in 0..1: heading and notes, then the rows, each as tall as its longest caption needs."""
    columns = max(len(row.cells) for row in rows)
    width = 2 * MARGIN + columns * (CELL + GAP) - GAP
    told = [line for note in notes for line in wrapped(note, width - 2 * MARGIN)]
    top = MARGIN + HEADING + GAP + _lines(len(told)) + (GAP if told else 0)
    page = Image.new("RGB", (width, top + sum(_height(row) for row in rows) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), heading, INK, _font(HEADING))
    _write(draw, (MARGIN, MARGIN + HEADING + GAP), told, FAINT)
    for row in rows:
        _paint(page, draw, top, row)
        top += _height(row)
    return pixels_of(page)[None]


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels; a word that is wider stands alone."""
    font, lines = _font(LINE), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _lines(count: int) -> int:
    return count * (LINE + 5)


def _caption(cell: Cell) -> list[str]:
    return [line for one in cell.lines for line in wrapped(one, CELL)]


def _height(row: Row) -> int:
    most = max((len(_caption(cell)) + bool(cell.warning) for cell in row.cells), default=0)
    return TITLE + GAP + CELL + 8 + _lines(most) + GAP


def _paint(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, row: Row) -> None:
    draw.text((MARGIN, top), row.title, INK, _font(TITLE))
    note = _font(LINE)
    draw.text((page.width - MARGIN - note.getlength(row.note), top + 2), row.note, FAINT, note)
    for number, cell in enumerate(row.cells):
        left, high = MARGIN + number * (CELL + GAP), top + TITLE + GAP
        page.paste(_shown(cell.picture), (left, high))
        if cell.marked:
            corners = (left - FRAME, high - FRAME, left + CELL + FRAME - 1, high + CELL + FRAME - 1)
            draw.rectangle(corners, outline=ACCENT, width=FRAME)
        lines, under = _caption(cell), high + CELL + 8
        _write(draw, (left, under), lines, ACCENT if cell.marked else INK)
        _write(draw, (left, under + _lines(len(lines))), [cell.warning], ALARM)


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], lines: Sequence[str], colour: tuple[int, int, int]) -> None:
    for number, line in enumerate(lines):
        draw.text((at[0], at[1] + _lines(number)), line, colour, _font(LINE))


def _shown(picture: Tensor) -> Image.Image:
    """The whole picture in a square; small ones keep their pixels."""
    image = image_of(picture)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    shown = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    cell.paste(shown, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell
