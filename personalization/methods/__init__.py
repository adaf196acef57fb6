"""Methods: which parts a concept starts with. One file per paper; settings stand in recipe.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..attractor import starting_rows
from ..concept import Concept
from ..learner import LearnTask
from ..parts import ImageTokens, LowRank
from ..prior import Prior
from ..soft_masks import with_soft_masks
from . import layerwise, nested, staged, textual_inversion
from .beginning import Beginning

AUTO = "auto"
METHODS: dict[str, Callable[[Beginning], Concept]] = {
    "quick": layerwise.start,
    "layerwise": layerwise.start,
    "nested": nested.start,
    "staged": staged.start,
    "staged fast": staged.start,
    "textual inversion": textual_inversion.start,
}
LARGEST = {"SD 1.5": 430_000, "SDXL": 1_280_000}  # parameters: 0.05 % of the denoiser's, as in CoAR; layers apart


class Choice(NamedTuple):
    """From `pictures` on, `auto` takes `method` for `role`."""

    role: str
    pictures: int
    method: str


CHOICES = (
    Choice("subject", 1, "quick"),
    Choice("subject", 3, "staged fast"),  # measured with five
    Choice("style", 1, "quick"),
    Choice("style", 3, "staged fast"),  # bench compose, with five
    Choice("both", 1, "quick"),
)


def chosen(method: str, role: str, pictures: int) -> str:
    """`method`, or for "auto" the last fitting line of CHOICES."""
    if method != AUTO:
        return method
    return [choice.method for choice in CHOICES if choice.role == role and choice.pictures <= pictures][-1]


def start(beginning: Beginning) -> Concept:
    """The starting concept of the recipe's method; ValueError where the words, sites or size do not fit."""
    concept = METHODS[beginning.recipe.method](beginning)
    concept = replace(concept, info=replace(concept.info, strength=beginning.recipe.strength))
    most = LARGEST.get(beginning.base.family)
    rows = replace(concept, parts=tuple(part for part in concept.parts if not isinstance(part, LowRank))).parameters
    if most and rows > most:
        raise ValueError(
            f"The concept would have {rows:,} parameters; at most {most:,} are meant for "
            f"{beginning.base.family}. Take fewer slots, sites or image tokens, or a smaller bank."
        )
    return concept


def task_of(beginning: Beginning, seed: int, keep: Path | None = None) -> LearnTask:
    """All that learning this beginning needs; pictures of the class are kept in the folder `keep`."""
    recipe, denoiser, latents = beginning.recipe, beginning.denoiser, beginning.latents
    if denoiser is None or latents is None:
        raise ValueError("A beginning has no denoiser or no latents; learning needs both. Give them to Beginning.")
    if recipe.soft_masks and beginning.role != "style":
        latents = with_soft_masks(latents, denoiser, beginning.prompt_encoder, beginning.noun)
        beginning = replace(beginning, latents=latents)
    concept = start(beginning)
    task = LearnTask(denoiser, beginning.prompt_encoder, concept, latents, recipe, seed)
    if recipe.casr:  # E_subject is what image tokens start as
        tokens = (part for part in concept.parts if isinstance(part, ImageTokens))
        task = replace(task, means={site: rows[0] for part in tokens for site, rows in part.rows.items()})
    if recipe.dpp and recipe.image_tokens:
        shape, encoder = latents.train[0].shape, beginning.prompt_encoder
        prior = Prior.of(denoiser, encoder, beginning.noun, recipe.class_pictures, shape, keep)
        task = replace(task, prior=prior)
    if recipe.attractor:
        attractors = starting_rows(beginning.prompt_encoder, concept, len(latents.train))
        task = replace(task, attractors=attractors)
    return task
