"""Layerwise context learning, CoAR / DCoAR (arXiv 2508.07341), text side; "quick" learns nothing else.

Prompt `a photo of [V] [Class]`. At each chosen site the slot's row of the context is p_v of that site
(parts/context_rows.py). The paper does not say how p_v starts; ours starts as the frozen encoder's own row where the
slot holds the class word, so that the first prediction is that of `a photo of mug mug`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..composition import PlacedConcept
from ..concept import Base, Concept
from ..denoiser import Context
from ..parts.context_rows import ContextRows
from ..sites import Site
from .beginning import Beginning, class_concept


def start(beginning: Beginning) -> Concept:
    """The class word's embedding, frozen, and one row tensor (slots, context width) per site of the recipe."""
    noun = "style" if beginning.role == "style" else beginning.noun
    concept = class_concept(beginning, f"{beginning.slots} {noun}")
    text = beginning.recipe.templates[0].replace("{}", f"<{beginning.placeholder}>")
    with torch.no_grad():
        context = beginning.prompt_encoder.encode(text, (PlacedConcept(concept),))
    rows = slot_rows(context, beginning.base, concept.info.slots)
    sites = chosen_sites(beginning.base, beginning.recipe.sites)
    return replace(concept, parts=(ContextRows({site: rows.clone() for site in sites}),))


def slot_rows(context: Context, base: Base, slots: int) -> Tensor:
    """The context's own rows at the first occurrence of the concept, (slots, context width), fp32.

    Each text encoder has its own channels and may have its own row numbers (SDXL: l 768 | g 1280).
    """
    if not context.slots:
        raise ValueError("The prompt encoder found no placeholder in the caption. Wire the checkpoint's own CLIP.")
    rows, channel = torch.empty(slots, context.tensor.shape[-1]), 0
    for key, width in base.encoders.items():
        numbers = torch.tensor(context.slots[0].rows[key][:slots])
        end = channel + width if len(base.encoders) > 1 else rows.shape[-1]
        rows[:, channel:end] = context.tensor[0, numbers, channel:end].float().cpu()
        channel = end
    return rows


def chosen_sites(base: Base, keys: tuple[str, ...]) -> tuple[Site, ...]:
    """The base's sites named by `keys`, all of them where there are none."""
    known = {shape.site.key: shape.site for shape in base.sites}
    if unknown := [key for key in keys if key not in known]:
        raise ValueError(
            f"The recipe names the sites {', '.join(unknown)}; {base.family} has {', '.join(known)}. Name some."
        )
    return tuple(known[key] for key in keys or known)
