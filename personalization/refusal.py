"""Why a file of ours was not loaded: what was given, what is needed, what to do. `kind` is what the file holds."""

from __future__ import annotations

from pathlib import Path


class ConceptFileError(ValueError):
    """A file that is not what it should be, or one that cannot be trusted."""


def not_ours(path: Path, why: str, kind: str = "concept") -> ConceptFileError:
    return ConceptFileError(
        f"The file '{path}' is no {kind} file: it {why}. A {kind} file made by Concept Loom is needed. "
        "Choose another one."
    )


def damaged(path: Path, why: str, kind: str = "concept") -> ConceptFileError:
    return ConceptFileError(
        f"The {kind} file '{path}' is damaged: {why}. An undamaged copy is needed. Copy it again, or learn it again."
    )


def newer(path: Path, version: object, known: int, kind: str = "concept") -> ConceptFileError:
    return ConceptFileError(
        f"The {kind} file '{path}' has format {version}; this version of Concept Loom reads format {known}. "
        "Update Concept Loom."
    )
