"""A file of others as a concept: an embedding's vectors become its word, a LoRA's layers its low-rank part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..concept import Base, Concept, ConceptInfo, noun_of, refuse_unknown_role
from ..prompt import SLOT
from .embedding import embeddings_in
from .families import known_bases
from .foreign import foreign_tensors
from .lora import Found, is_lora, low_rank_in

EMBEDDING_FILE, LORA_FILE = "embedding file", "LoRA file"  # what stands where a method stands


@dataclass(frozen=True)
class Told:
    """What a file of others does not say. `trigger`: the words that a LoRA was trained with, before the class word."""

    placeholder: str
    class_word: str
    role: str
    trigger: str = ""

    @property
    def noun(self) -> str:
        return noun_of(self.class_word, self.role)


class Imported(NamedTuple):
    """`sentence` says what it is for and what of the file a concept has no place for."""

    concept: Concept
    sentence: str


def imported(path: Path, told: Told, bases: Sequence[Base] | None = None) -> Imported:
    """The concept of a foreign file; ConceptFileError with the reason where it cannot be one, ValueError for words."""
    _check(told)
    tensors, bases = foreign_tensors(path), bases or known_bases()
    return _lora(path, tensors, told, bases) if is_lora(tensors) else _embedding(path, tensors, told, bases)


def _embedding(path: Path, tensors: Mapping[str, Tensor], told: Told, bases: Sequence[Base]) -> Imported:
    base, vectors = embeddings_in(tensors, path, bases)
    count = len(next(iter(vectors.values())))
    info = _info(path, told, base, " ".join([SLOT] * count), EMBEDDING_FILE)
    vectors_said = "1 vector" if count == 1 else f"{count} vectors"
    said = f"An embedding of {vectors_said} for {base.family}."
    return Imported(Concept(info, vectors), said)


def _lora(path: Path, tensors: Mapping[str, Tensor], told: Told, bases: Sequence[Base]) -> Imported:
    found = low_rank_in(tensors, path, bases)
    said = _said(found)
    info = _info(path, told, found.base, f"{told.trigger.strip()} {SLOT}".strip(), LORA_FILE, said)
    return Imported(Concept(info, {}, (found.part,)), said)


def _said(found: Found) -> str:
    layers = sum(map(len, found.part.layers.values()))
    said = f"A LoRA for {found.base.family}: {layers} layers act."
    if not found.elsewhere:
        return said
    other, text = found.elsewhere - found.text, found.text
    parts = [f"{text} of text encoders"] * bool(text) + [f"{other} outside the transformer blocks"] * bool(other)
    return f"{said} Left out are {' and '.join(parts)}: a concept has no place for them. Load LoRA takes them all."


def _info(path: Path, told: Told, base: Base, phrase: str, method: str, note: str = "") -> ConceptInfo:
    return ConceptInfo(
        name=path.stem,
        placeholder=told.placeholder,
        phrase=phrase,
        class_word=told.noun,
        role=told.role,
        base=base,
        method=method,
        note=note,
    )


def _check(told: Told) -> None:
    refuse_unknown_role(told.role)
    if not told.noun:
        raise ValueError(
            "No class word was given; a subject needs one, which stands in the prompt at strength 0. "
            "Say what it is in a word or two, such as mug or stuffed toy."
        )
