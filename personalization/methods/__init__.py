"""Methods: which parts a concept starts with. One file per paper; settings stand in recipe.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..concept import Concept
from . import layerwise, textual_inversion
from .beginning import Beginning

AUTO = "auto"
METHODS: dict[str, Callable[[Beginning], Concept]] = {
    "quick": layerwise.start,
    "textual inversion": textual_inversion.start,
}
LARGEST = {"SD 1.5": 430_000, "SDXL": 1_280_000}  # parameters: 0.05 % of the denoiser's, as in CoAR


class Choice(NamedTuple):
    """From `pictures` on, `auto` takes `method` for `role`."""

    role: str
    pictures: int
    method: str


CHOICES = (Choice("subject", 1, "quick"), Choice("style", 1, "quick"), Choice("both", 1, "quick"))


def chosen(method: str, role: str, pictures: int) -> str:
    """`method`, or for "auto" the last fitting line of CHOICES."""
    if method != AUTO:
        return method
    return [choice.method for choice in CHOICES if choice.role == role and choice.pictures <= pictures][-1]


def start(beginning: Beginning) -> Concept:
    """The starting concept of the recipe's method; ValueError where the words, sites or size do not fit."""
    concept = METHODS[beginning.recipe.method](beginning)
    most = LARGEST.get(beginning.base.family)
    if most and concept.parameters > most:
        raise ValueError(
            f"The concept would have {concept.parameters:,} parameters; at most {most:,} are meant for "
            f"{beginning.base.family}. Take fewer slots or sites."
        )
    return concept
