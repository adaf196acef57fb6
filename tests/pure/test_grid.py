"""The grid: every picture in its place, marks where they belong, captions inside their columns."""

import torch
from concept_loom.personalization.grid import ACCENT, CELL, GAP, MARGIN, Cell, Row, grid, wrapped
from torch import Tensor

RED, BLUE = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])


def plain(colour: Tensor, height: int = 8, width: int = 8) -> Tensor:
    return colour.expand(height, width, 3)


def share(sheet: Tensor, colour: Tensor) -> float:
    """Of the sheet, in cells."""
    return float((sheet[0] == colour).all(-1).sum()) / CELL**2


def test_every_picture_is_shown_whole_also_a_wide_one() -> None:
    sheet = grid("pictures", (), [Row("one", "", [Cell(plain(RED)), Cell(plain(BLUE, 4, 8))]), Row("two", "", [])])
    assert sheet.shape[2] == 2 * MARGIN + 2 * CELL + GAP
    assert share(sheet, RED) == 1 and share(sheet, BLUE) == 0.5


def test_only_a_marked_picture_is_framed() -> None:
    def framed(marked: bool) -> bool:
        sheet = grid("", (), [Row("", "", [Cell(plain(RED), marked=marked)])])
        return bool(((sheet[0] * 255).round() == torch.tensor(ACCENT)).all(-1).any())

    assert framed(True) and not framed(False)


def test_longer_captions_notes_and_warnings_make_room_for_themselves() -> None:
    def height(notes: tuple[str, ...] = (), **how) -> int:
        return grid("", notes, [Row("", "", [Cell(plain(RED), **how)])]).shape[1]

    bare = height()
    assert bare < height(lines=("short",)) < height(lines=("a long caption " * 6,))
    assert bare < height(notes=("a note",)) and bare < height(warning="look")


def test_lines_are_wrapped_between_words_and_lose_none() -> None:
    text = "a photo of <mug> on the beach, next to a ball, " + "x" * 80
    lines = wrapped(text, CELL)
    assert len(lines) > 2 and " ".join(lines) == text
    assert wrapped("", CELL) == [""]
