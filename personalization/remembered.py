"""What a workflow remembers of a concept file, so that it is found under any name or asked for."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .concept import is_placeholder
from .library import identity_of

LONGEST = 4096  # characters; a workflow may come from anybody
UNITS = ("bytes", "KB", "MB", "GB")


@dataclass(frozen=True)
class Remembered:
    """`file` is its name in the list; `hash` that of its tensors; `base` what it was learned on; `size` in bytes."""

    file: str
    hash: str
    word: str
    class_word: str
    base: str
    size: int

    def names(self, file: str) -> bool:
        """Whether it is of the file that a workflow names so, with either separator."""
        return self.file.replace("\\", "/") == file.replace("\\", "/")

    def text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def described(self) -> str:
        return f"<{self.word}> ({self.class_word}, learned on {self.base}, {_amount(self.size)})"


def remembered(path: Path, file: str) -> Remembered:
    """Of a file that is here under the name `file`; ConceptFileError where it is none of ours."""
    info, digest = identity_of(path)
    base = ", ".join(filter(None, (info.base.family, info.base.name)))
    return Remembered(file, digest, info.placeholder, info.class_word, base, path.stat().st_size)


def recalled(text: str) -> Remembered | None:
    """Of the text that a workflow keeps; None where it keeps none, or none that is whole."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        kept = json.loads(text[:LONGEST])
        values = {one.name: kept[one.name] for one in fields(Remembered)}
        texts = [value for name, value in values.items() if name != "size"]
        plain = all(isinstance(value, str) for value in texts) and type(values["size"]) is int
        if plain and is_placeholder(values["word"]):
            return Remembered(**values)
    return None


def _amount(size: float) -> str:
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.0f} {UNITS[-1]}"
