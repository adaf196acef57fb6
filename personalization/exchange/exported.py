"""A concept as a file for those who do not have Concept Loom, as far as their formats can hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import torch as safetensors
from torch import Tensor

from ..checkpoint import ARCHITECTURES, shown
from ..concept import Base, Concept
from ..parts.low_rank import ALPHA, LowRank
from ..whole_file import write_whole
from .embedding import embedding_tensors, prompt_of, stands_together
from .lora import diffusers_tensors, kohya_tensors

EMBEDDING, KOHYA, DIFFUSERS = "embedding", "LoRA, kohya keys", "LoRA, diffusers keys"
FORMATS = (EMBEDDING, KOHYA, DIFFUSERS)
_NAMERS: dict[str, Callable[[LowRank, Base], dict[str, Tensor]]] = {KOHYA: kohya_tensors, DIFFUSERS: diffusers_tensors}


class Exported(NamedTuple):
    """What a file will hold, and in one or two sentences how it is used."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sentence: str

    def save(self, path: Path) -> None:
        write_whole(path, safetensors.save(dict(self.tensors), dict(self.metadata)))


def exported(concept: Concept, to: str, name: str) -> Exported:
    """`concept` in one of FORMATS; `name` is the file's, without its ending. ValueError says why it cannot be."""
    _refuse_other_parts(concept, to)
    return _embedding(concept, name) if to == EMBEDDING else _lora(concept, to, name)


def _embedding(concept: Concept, name: str) -> Exported:
    info = concept.info
    if not concept.embeddings:
        raise _cannot(concept, "has no embedding of its own", "an embedding", f"Export it as {KOHYA}")
    if not stands_together(concept):
        raise _cannot(
            concept, f"learned the phrase '{info.phrase}'", "vectors that stand together", "Share its own file"
        )
    said = f"In a prompt write {prompt_of(concept, name)} where <{info.placeholder}> stood."
    if _low_rank(concept):
        said += f" Its low-rank layers are not in an embedding: export it as {KOHYA} too."
    return Exported(embedding_tensors(concept), _metadata(concept, "textual-inversion"), said + _strength(concept))


def _lora(concept: Concept, to: str, name: str) -> Exported:
    (part,) = _low_rank(concept) or (None,)
    if part is None:
        raise _cannot(concept, "has no low-rank layers", "low-rank layers", f"Export it as {EMBEDDING}")
    said = "Load it as any LoRA; it acts in every prompt."
    if concept.embeddings:
        said += f" Its embedding is not in a LoRA: export it as {EMBEDDING} too, and write {prompt_of(concept, name)}."
    else:
        words = concept.info.phrase.replace("[V]", concept.info.class_word)
        said += f" In a prompt write {words} where <{concept.info.placeholder}> stood."
    metadata = _metadata(concept, "lora") | ({"ss_network_alpha": f"{ALPHA:g}"} if to == KOHYA else {})
    return Exported(_NAMERS[to](part, concept.info.base), metadata, said + _strength(concept))


def _low_rank(concept: Concept) -> tuple[LowRank, ...]:
    return tuple(part for part in concept.parts if isinstance(part, LowRank))


def _refuse_other_parts(concept: Concept, to: str) -> None:
    if to not in FORMATS:
        raise ValueError(f"The format is '{to}'; {', '.join(FORMATS)} are known. Choose one of them.")
    kinds = [part.kind.replace("_", " ") for part in concept.parts if not isinstance(part, LowRank)]
    if kinds:
        raise _cannot(
            concept,
            f"acts through {' and '.join(kinds)}, which only a file of Concept Loom holds",
            "a concept of an embedding and low-rank layers alone",
            "Share its own file, which also loads into diffusers, or learn it with textual inversion or staged",
        )


def _cannot(concept: Concept, why: str, needed: str, advice: str) -> ValueError:
    return ValueError(f"The concept '{concept.info.name}' {why}. This format needs {needed}. {advice}.")


def _strength(concept: Concept) -> str:
    strength = concept.info.strength
    return "" if strength == 1 else f" Its recommended strength is {strength:g}, which the file cannot set."


def _metadata(concept: Concept, kind: str) -> dict[str, str]:
    family = concept.info.base.family
    own = {"modelspec.architecture": f"{ARCHITECTURES.get(family, family)}/{kind}"}
    return shown(concept) | own
