"""AttnDreamBooth (arXiv 2406.05000): three stages, each with its own tensors, on one prompt `a photo of a [V] [Class]`.

1. the embedding of [V], from the class word's, until it sits in the prompt; 2. low-rank layers of attn2, until [V]
takes as much attention as its class; 3. low-rank layers of all attention and feed-forward, for the identity. No prior
preservation, text encoder frozen.

    L = L_denoise + L_reg        attention_regulariser in objectives.py, with each stage's w_mean and w_var

The paper trains the weights themselves in stages 2 and 3; ours stay frozen under parts/low_rank.py. B starts at zero,
so that the first prediction is that of `a photo of a mug mug`. New is that a stage can end when the held-out
pictures come no closer (Recipe.keeps_best with patience; off, for that is far too early), and that pictures which have
captions are learned under these, with [V] [Class] in them: what a caption says of a picture need not be learned. There
stage 2 is left out where that was measured to be better (Stage.uncaptioned).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator

from ..concept import Concept
from ..parts import LowRank
from ..parts.low_rank import Pair, layer_widths
from .beginning import Beginning, class_concept
from .layerwise import chosen_sites

SEED = 23


def start(beginning: Beginning) -> Concept:
    """The class word's embedding, and every layer's A drawn, B zero, at the sites of the recipe."""
    noun = "style" if beginning.role == "style" else beginning.noun
    sites, rank = chosen_sites(beginning.base, beginning.recipe.sites), beginning.recipe.rank
    if rank < 1:
        raise ValueError(f"The recipe's rank is {rank}; low-rank layers need at least 1. Give it a rank, such as 8.")
    generator = Generator().manual_seed(SEED)
    layers = {
        shape.site: {name: _fresh(*widths, rank, generator) for name, widths in layer_widths(shape).items()}
        for shape in beginning.base.sites
        if shape.site in sites
    }
    return replace(class_concept(beginning, f"{beginning.slots} {noun}"), parts=(LowRank(layers),))


def _fresh(into: int, out: int, rank: int, generator: Generator) -> Pair:
    """A as the field draws it (Kaiming, uniform, a = sqrt 5): within 1 / sqrt(in)."""
    a = (2 * torch.rand(rank, into, generator=generator) - 1) / into**0.5
    return Pair(a, torch.zeros(out, rank))
