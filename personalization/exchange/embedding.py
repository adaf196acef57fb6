"""Textual-inversion embeddings (arXiv 2208.01618) as concepts, and concepts as such files.

What is read: `emb_params` (one encoder) and `clip_l` beside `clip_g` (SDXL), as A1111 and ComfyUI write them, and
diffusers' `learned_embeds`, one tensor under the token's name. What is written: the first two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..concept import Base, Concept
from ..header import MOST_SLOTS
from ..prompt import SLOT
from .foreign import unusable

ENCODER = "clip_"  # before the encoder's key
ALONE = "emb_params"


def embeddings_in(tensors: Mapping[str, Tensor], path: Path, bases: Sequence[Base]) -> tuple[Base, dict[str, Tensor]]:
    """The base that an embedding file is for, and its vectors (slots, width) per encoder of that base."""
    named = {key.removeprefix(ENCODER): one for key, one in tensors.items() if key.startswith(ENCODER)}
    found = {key: _rows(one) for key, one in (named or dict(tensors)).items()}
    if not found or any(one.ndim != 2 or not one.shape[0] for one in found.values()):
        raise unusable(path, "has no vectors of text encoders")
    if len({len(one) for one in found.values()}) > 1 or len(next(iter(found.values()))) > MOST_SLOTS:
        counts = ", ".join(f"{key}: {len(one)}" for key, one in found.items())
        raise unusable(path, f"has {counts} vectors, where 1 to {MOST_SLOTS} belong, as many for each text encoder")
    for base in bases:
        keyed = found if named else _keyed(found, base)
        widths = {key: one.shape[1] for key, one in keyed.items()}
        if widths and widths.items() <= dict(base.encoders).items():
            return base, keyed
    widths = ", ".join(f"{key}: {one.shape[1]}" for key, one in found.items())
    raise unusable(path, f"has vectors of other widths ({widths}) than the text encoders of {_listed(bases)}")


def embedding_tensors(concept: Concept) -> dict[str, Tensor]:
    """What the file of an exported embedding holds."""
    embeddings = {key: one.detach().cpu().contiguous() for key, one in concept.embeddings.items()}
    alone = len(concept.info.base.encoders) == 1
    return {ALONE if alone else f"{ENCODER}{key}": one for key, one in embeddings.items()}


def prompt_of(concept: Concept, name: str) -> str:
    """What is written in a prompt where the concept's word stood: "embedding:mug mug"; its vectors stand together."""
    words = concept.info.phrase.replace(SLOT, f" {SLOT} ").split()
    first = words.index(SLOT)
    rest = [word for word in words if word != SLOT]
    return " ".join([*rest[:first], f"embedding:{name}", *rest[first:]])


def stands_together(concept: Concept) -> bool:
    words = concept.info.phrase.replace(SLOT, f" {SLOT} ").split()
    first = words.index(SLOT)
    return words[first : first + concept.info.slots] == [SLOT] * concept.info.slots


def _rows(tensor: Tensor) -> Tensor:
    return tensor[None] if tensor.ndim == 1 else tensor


def _keyed(found: Mapping[str, Tensor], base: Base) -> dict[str, Tensor]:
    """A single tensor, under whatever name, belongs to the encoder that has its width."""
    (only, *others) = found.values()
    keys = [key for key, width in base.encoders.items() if width == only.shape[1]]
    return {keys[0]: only} if keys and not others else {}


def _listed(bases: Sequence[Base]) -> str:
    return ", ".join(base.family for base in bases)
