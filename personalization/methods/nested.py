"""Nested values learned for one concept, without an encoder (after Nested Attention, arXiv 2501.01407).

Prompt `a photo of [V]`, [V] at the class word's embedding as in the paper. At every site the word's key stays the
text's, and its value becomes v*(q) over a bank of tokens (parts/nested_values.py). The bank starts as the class word's
own row of the context with a little noise, so that the first prediction is nearly that of the class word and the
tokens can part.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..concept import Concept
from ..parts import NestedValues
from .beginning import Beginning, class_concept, class_rows
from .layerwise import APART, SEED, chosen_sites


def start(beginning: Beginning) -> Concept:
    """The class word's embedding, frozen, and a bank (m, context width) per site of the recipe."""
    concept = class_concept(beginning, beginning.slots)
    row = class_rows(beginning, concept)[0]
    generator = torch.Generator().manual_seed(SEED)
    sites = chosen_sites(beginning.base, beginning.recipe.sites)
    noise = {site: torch.randn(beginning.recipe.bank, len(row), generator=generator) for site in sites}
    bank = NestedValues({s: row + APART * row.std() * n for s, n in noise.items()})
    return replace(concept, info=replace(concept.info, value_norm=beginning.recipe.value_norm), parts=(bank,))
