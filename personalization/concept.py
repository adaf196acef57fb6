"""The Concept: what is learned, saved, loaded and applied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from .parts import Part
from .sites import Site, SiteShape
from .tensor_hash import tensor_hash

ROLES = ("subject", "style", "both")


def refuse_unknown_role(role: str) -> None:
    """ValueError for a role that is none of ROLES."""
    if role not in ROLES:
        raise ValueError(f"The role is '{role}'; {', '.join(ROLES)} are known. Choose one of them.")


@dataclass(frozen=True)
class Base:
    """The model that a concept was learned on, as far as it matters for where the concept can act.

    `encoders` maps ComfyUI's text encoder keys ("l", "g", "h") to their embedding widths, in the order in which
    their channels stand in the context.
    """

    family: str  # "SD 1.5", "SD 2", "SDXL", "Playground"
    context_width: int
    encoders: Mapping[str, int]
    sites: tuple[SiteShape, ...]
    prediction: str  # "eps", "v", "edm", "x0" or "flow"
    fingerprint: str  # of the denoiser's weights
    name: str = ""  # the checkpoint's file name, if known


@dataclass(frozen=True)
class ConceptInfo:
    """Everything about a concept that is not a tensor. `phrase` holds `[V]` once per slot: "[V] mug"."""

    name: str
    placeholder: str  # without the angle brackets: "mug" for <mug>
    phrase: str
    class_word: str
    role: str
    base: Base
    method: str = ""
    recipe: Mapping[str, object] = field(default_factory=dict)
    data_hash: str = ""
    seed: int = 0
    steps: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    license: str = ""
    author: str = ""
    note: str = ""
    strength: float = 1.0  # the recommended one
    value_norm: float = 0.0  # of nested values (parts/nested_values.py)
    key: str = ""  # of what it was learned from and how; empty where learning was stopped early
    losses: tuple[float, ...] = ()  # of training, evenly thinned

    @property
    def slots(self) -> int:
        return self.phrase.count("[V]")


@dataclass(frozen=True)
class Concept:
    """Info, one embedding per text encoder (slots, width), and parts. `thumbnail` is a JPEG."""

    info: ConceptInfo
    embeddings: Mapping[str, Tensor]
    parts: tuple[Part, ...] = ()
    thumbnail: bytes = b""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name in the file: `embedding.l`, `context_rows.input.4.0`, ..."""
        named = {f"embedding.{key}": value for key, value in self.embeddings.items()}
        for part in self.parts:
            named |= part.tensors()
        return named

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Concept:
        """The same concept over other tensors of the same names and shapes (the learner's parameters, say)."""
        embeddings = {key: tensors[f"embedding.{key}"] for key in self.embeddings}
        return replace(self, embeddings=embeddings, parts=tuple(part.with_tensors(tensors) for part in self.parts))

    def has(self, *kinds: type[Part], site: Site | None = None) -> bool:
        """Whether it has a part of these kinds, at that site where one is given."""
        return any(isinstance(part, kinds) and (site is None or site in part.sites) for part in self.parts)

    @cached_property
    def hash(self) -> str:
        return tensor_hash(self.tensors())

    @property
    def parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors().values())


def is_placeholder(word: str) -> bool:
    """Whether a prompt can hold it as `<word>`."""
    return bool(word) and not any(char in "<>" or char.isspace() for char in word)


def word_of(placeholder: str) -> str:
    """The word without its angle brackets; ValueError where a prompt could not hold it."""
    word = placeholder.strip().removeprefix("<").removesuffix(">")
    if not is_placeholder(word):
        raise ValueError(
            f"The placeholder is '{placeholder}'; one word without spaces or angle brackets is needed. "
            "Write mug for <mug>, red_mug for two words."
        )
    return word


def noun_of(class_word: str, role: str) -> str:
    """The class word; a style without one is a "style"."""
    return class_word.strip() or ("style" if role == "style" else "")


def channel_spans(widths: Mapping[str, int]) -> dict[str, slice]:
    """Each text encoder's channels of the context, from the encoders' widths in the order of their channels."""
    spans, start = {}, 0
    for key, width in widths.items():
        spans[key], start = slice(start, start + width), start + width
    return spans
