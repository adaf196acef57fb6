"""Settings of training towers. DRC (arXiv 2504.17349) tells none, so all are ours, and unmeasured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..recipe import FAMILIES, Range

STEPS = Range(0, 0, 100_000, 1)  # 0: the recipe's
BATCH_SIZE = Range(0, 0, 64, 1)  # 0: the recipe's
LEARNING_RATE = Range(0, 0, 0.1, 1e-5)  # 0: the recipe's
TOKENS = Range(8, 1, 64, 1)


@dataclass(frozen=True)
class TowersRecipe:
    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 2e-4
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 1e-2
    largest_gradient: float = 1.0  # norm to which gradients are cut
    min_snr: float = 5.0
    sigma_range: tuple[float, float] = (0.001, 0.999)  # percents of sampling
    width: int = 512  # of the towers
    tokens: int = int(TOKENS.default)  # M
    copies: int = 4  # style-perturbed, of each picture
    temperature: float = 0.5  # of the importance sampling
    alone: float = 0.1  # share of samples that see the style only, and of those that see the semantics only
    class_word: str = "picture"
    templates: tuple[str, ...] = ("a {}", "a photo of a {}", "a {} of something")

    def as_header(self) -> Mapping[str, object]:
        """JSON-ready, for the towers file."""
        return asdict(self)


RECIPES = {
    **{family: TowersRecipe() for family in FAMILIES},
    "Playground": TowersRecipe(steps=600, batch_size=16, learning_rate=1e-3, width=128),
}
