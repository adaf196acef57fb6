"""The library: concept files in folders, found again by what they were learned from or by what they hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from .checkpoint import load, read_identity
from .concept import Concept, ConceptInfo
from .refusal import ConceptFileError

SUFFIX = ".safetensors"
log = logging.getLogger("concept_loom")


class Found(NamedTuple):
    concept: Concept
    path: Path


def learned_before(key: str, folders: Iterable[Path]) -> Found | None:
    """The first sound file whose learning had this key; a damaged one is named in the log and passed over."""
    for file in files_below(folders):
        if key_of(file) == key:
            try:
                return Found(load(file), file)
            except ConceptFileError as error:
                log.warning(error)
    return None


def same_tensors(digest: str, folders: Iterable[Path]) -> Path | None:
    """The first file below `folders` whose tensors have this hash, whatever its name."""
    return next((file for file in files_below(folders) if hash_of(file) == digest), None)


def files_below(folders: Iterable[Path]) -> Iterator[Path]:
    return (file for folder in folders for file in sorted(folder.rglob(f"*{SUFFIX}")))


def key_of(file: Path) -> str:
    """The learning key in a file's header; empty for other files and for learning that was stopped early."""
    with suppress(ConceptFileError, OSError):
        return identity_of(file)[0].key
    return ""


def hash_of(file: Path) -> str:
    """The tensor hash in a file's header; empty for other files."""
    with suppress(ConceptFileError, OSError):
        return identity_of(file)[1]
    return ""


def identity_of(file: Path) -> tuple[ConceptInfo, str]:
    """As `read_identity`, without recipe and losses, kept until the file changes; OSError where there is none."""
    state = file.stat()
    return _identity(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _identity(file: Path, changed: int, size: int) -> tuple[ConceptInfo, str]:
    info, digest = read_identity(file)
    return replace(info, recipe={}, losses=()), digest


def file_name(word: str) -> str:
    """A placeholder as a file name that every system takes and that leads nowhere else."""
    return re.sub(r"[^\w.-]", "_", word).strip(".") or "concept"


def free_path(folder: Path, name: str) -> Path:
    """`folder/name.safetensors`, numbered where that is taken; folders on the way are made."""
    path, number = folder / f"{name}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{name}_{number}{SUFFIX}", number + 1
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
