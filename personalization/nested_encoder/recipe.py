"""Settings of training a nested encoder. The paper tells m = 1024 and its loss; the rest is ours."""

from __future__ import annotations

from dataclasses import dataclass

from ..network_training import NetworkRecipe
from ..recipe import FAMILIES, NEUTRAL, Range

TOKENS = Range(16, 1, 1024, 1)


@dataclass(frozen=True)
class EncoderRecipe(NetworkRecipe):
    width: int = 512  # of the Q-Former
    depth: int = 4
    tokens: int = int(TOKENS.default)  # m; 1024 in the paper, whose files hold no concept
    rank: int = 16  # of each site's change of W_k and W_v
    views: int = 2  # crops of each picture that the encoder is shown
    class_word: str = ""  # what the pictures show, where their folder does not say
    templates: tuple[str, ...] = NEUTRAL


RECIPES = {
    **{family: EncoderRecipe() for family in FAMILIES},
    "Playground": EncoderRecipe(steps=600, batch_size=16, learning_rate=1e-3, width=128, depth=2, tokens=8),
}
