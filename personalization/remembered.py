"""What a workflow remembers of a concept file, so that it is found under any name or asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from .checkpoint import read_identity
from .concept import is_placeholder
from .library import SUFFIX
from .refusal import ConceptFileError

LONGEST = 4096  # characters; a workflow may come from anybody
NEWEST, UNITS = 4096, ("bytes", "KB", "MB", "GB")


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
    identity = _identity(path, path.stat().st_mtime_ns, path.stat().st_size)
    return Remembered(file, *identity, path.stat().st_size)


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


def same_tensors(digest: str, folders: Iterable[Path]) -> Path | None:
    """The first file below `folders` whose tensors have this hash, whatever its name."""
    for file in (file for folder in folders for file in sorted(folder.rglob(f"*{SUFFIX}"))):
        if hash_of(file) == digest:
            return file
    return None


def hash_of(file: Path) -> str:
    """The tensor hash in a file's header; empty for other files."""
    with suppress(ConceptFileError, OSError):
        return _identity(file, file.stat().st_mtime_ns, file.stat().st_size)[0]
    return ""


@lru_cache(maxsize=NEWEST)
def _identity(file: Path, changed: int, size: int) -> tuple[str, str, str, str]:
    info, digest = read_identity(file)
    return digest, info.placeholder, info.class_word, ", ".join(filter(None, (info.base.family, info.base.name)))


def _amount(size: float) -> str:
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.0f} {UNITS[-1]}"
