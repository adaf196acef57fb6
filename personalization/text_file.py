"""Texts that people write beside pictures, in the encodings that their editors save."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

CLASS_WORD = "class_word.txt"  # in a folder of pictures, where the folders beside it are not all of one class


def class_word_in(folder: Path, otherwise: str) -> str:
    """What the folder's pictures show, by its own note or else as all the others do; ValueError as in `read_text`."""
    note = folder / CLASS_WORD
    return read_text(note).strip() if note.is_file() else otherwise


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 as its mark says; ValueError where it is neither or cannot be read."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} has letters in an encoding of its own; UTF-8 is needed. Save it so.") from None
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be read ({error.strerror or error}); it must be allowed. Allow it, or remove the file."
        ) from error
