"""The word of an encoder's concepts: at its class word's embedding, from whose row of the context their banks start."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..concept import Base, Concept
from ..denoiser import PromptEncoder
from ..methods.beginning import Beginning, class_concept, class_rows
from ..recipe import Recipe

METHOD, WORD = "nested encoder", "it"


class Spoken(NamedTuple):
    """A concept without parts, and its row of the context (context width,), fp32."""

    concept: Concept
    row: Tensor


def spoken(encoder: PromptEncoder, base: Base, class_word: str, placeholder: str = WORD) -> Spoken:
    """ValueError where there is no class word, or no word that a prompt could hold."""
    beginning = Beginning(encoder, base, Recipe(METHOD, ()), placeholder, class_word, "subject")
    concept = class_concept(beginning, beginning.slots)
    return Spoken(concept, class_rows(beginning, concept)[0])
