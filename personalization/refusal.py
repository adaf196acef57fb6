"""Why a concept file was not loaded: what was given, what is needed, what to do."""

from __future__ import annotations

from pathlib import Path


class ConceptFileError(ValueError):
    """A file that is no concept, or one that cannot be trusted."""


def not_ours(path: Path, why: str) -> ConceptFileError:
    return ConceptFileError(
        f"The file '{path}' is no concept: it {why}. A file made by Concept Loom is needed. Choose another one."
    )


def damaged(path: Path, why: str) -> ConceptFileError:
    return ConceptFileError(
        f"The concept file '{path}' is damaged: {why}. An undamaged copy is needed. Copy it again, or learn it again."
    )
