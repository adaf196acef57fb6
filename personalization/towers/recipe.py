"""Settings of training towers. DRC (arXiv 2504.17349) tells none, so all are ours, and unmeasured so far."""

from __future__ import annotations

from dataclasses import dataclass

from ..network_training import NetworkRecipe
from ..recipe import FAMILIES, Range

TOKENS = Range(8, 1, 64, 1)


@dataclass(frozen=True)
class TowersRecipe(NetworkRecipe):
    width: int = 512  # of the towers
    tokens: int = int(TOKENS.default)  # M
    copies: int = 4  # style-perturbed, of each picture
    temperature: float = 0.5  # of the importance sampling
    alone: float = 0.1  # share of samples that see the style only, and of those that see the semantics only
    class_word: str = "picture"
    templates: tuple[str, ...] = ("a {}", "a photo of a {}", "a {} of something")


RECIPES = {
    **{family: TowersRecipe() for family in FAMILIES},
    "Playground": TowersRecipe(steps=600, batch_size=16, learning_rate=1e-3, width=128),
}
