"""The beginning of every method: a concept whose embedding is still the class word's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..composition import PlacedConcept
from ..concept import Base, Concept, ConceptInfo, noun_of, refuse_unknown_role
from ..denoiser import Denoiser, PromptEncoder, slot_rows
from ..latents import TrainingLatents
from ..recipe import Recipe


@dataclass(frozen=True)
class Beginning:
    """What a method starts a concept from. The placeholder comes without angle brackets; a style's class word may be
    empty."""

    prompt_encoder: PromptEncoder
    base: Base
    recipe: Recipe
    placeholder: str
    class_word: str
    role: str
    name: str = ""  # empty: the placeholder
    denoiser: Denoiser | None = None  # where the start depends on what the model sees in the pictures
    latents: TrainingLatents | None = None

    @property
    def noun(self) -> str:
        return noun_of(self.class_word, self.role)

    @property
    def slots(self) -> str:
        return " ".join(["[V]"] * self.recipe.slots)


def class_concept(beginning: Beginning, phrase: str) -> Concept:
    """A concept without parts: every slot of `phrase` holds the class word's embedding. ValueError on bad words."""
    _check(beginning)
    info = ConceptInfo(
        name=beginning.name or beginning.placeholder,
        placeholder=beginning.placeholder,
        phrase=phrase,
        class_word=beginning.noun,
        role=beginning.role,
        base=beginning.base,
        method=beginning.recipe.method,
        recipe=beginning.recipe.as_header(),
    )
    return Concept(info, _embeddings(beginning))


def class_rows(beginning: Beginning, concept: Concept) -> Tensor:
    """What the frozen text encoder makes of its slots in the recipe's first prompt, (slots, context width), fp32."""
    text = beginning.recipe.templates[0].replace("{}", f"<{beginning.placeholder}>")
    with torch.no_grad():
        context = beginning.prompt_encoder.encode(text, (PlacedConcept(concept),))
    return slot_rows(context, beginning.base, concept.info.slots)


def _embeddings(beginning: Beginning) -> dict[str, Tensor]:
    """(slots, width) per encoder."""
    found = beginning.prompt_encoder.class_embedding(beginning.noun)
    return {key: vector.float().cpu().repeat(beginning.recipe.slots, 1) for key, vector in found.items()}


def _check(beginning: Beginning) -> None:
    refuse_unknown_role(beginning.role)
    if not beginning.noun:
        raise ValueError(
            "No class word was given; a subject needs one to start from and to be compared with. "
            "Say what it is in a word or two, such as mug or stuffed toy."
        )
    if not beginning.placeholder.strip():
        raise ValueError("No placeholder was given; a prompt needs a word for the concept. Name it, such as mug.")
