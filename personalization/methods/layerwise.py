"""Layerwise context learning, CoAR / DCoAR (arXiv 2508.07341); "quick" learns its text side only.

Prompt `a photo of [V] [Class]`. At each chosen site the slot's row of the context is p_v of that site
(parts/context_rows.py), and p_I of that site stands among the image tokens (parts/image_tokens.py). The paper does not
say how p_v starts; ours starts as the frozen encoder's own row where the slot holds the class word, so that the first
prediction is that of `a photo of mug mug`. p_I starts as E_subject (subject_means.py), as in the paper.

    L = L_denoise + 1e-2 L_DPP + 5e-4 L_CASR        prior.py, objectives.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ..concept import Base, Concept
from ..denoiser import unseen
from ..parts import ContextRows, ImageTokens
from ..prior import PROMPT
from ..sites import Site
from ..subject_means import subject_means
from .beginning import Beginning, class_concept, class_rows

APART, SEED = 0.05, 19  # noise on further tokens, in standard deviations of the row


def start(beginning: Beginning) -> Concept:
    """The class word's embedding, frozen, and one row tensor (slots, context width) per site of the recipe."""
    noun = "style" if beginning.role == "style" else beginning.noun
    concept = class_concept(beginning, f"{beginning.slots} {noun}")
    rows = class_rows(beginning, concept)
    sites = chosen_sites(beginning.base, beginning.recipe.sites)
    own = ContextRows({site: rows.clone() for site in sites})
    return replace(concept, parts=(own, *_image_tokens(beginning, sites)))


def _image_tokens(beginning: Beginning, sites: Sequence[Site]) -> tuple[ImageTokens, ...]:
    count = beginning.recipe.image_tokens
    if not count:
        return ()
    means = _means(beginning)
    missing = next((site for site in sites if site not in means), None)
    if missing:
        raise unseen("where image tokens start", missing)
    generator = torch.Generator().manual_seed(SEED)
    return (ImageTokens({site: parted(means[site], count, generator) for site in sites}),)


def parted(row: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(d,) -> (count, d): the row, and it with a little noise: equal tokens have equal gradients, and stay equal."""
    noise = torch.randn(count, len(row), generator=generator).to(row)
    noise[0] = 0
    return row + APART * row.std() * noise


def _means(beginning: Beginning) -> dict[Site, Tensor]:
    """E_subject per site, seen under the class's own prompt."""
    if beginning.denoiser is None or beginning.latents is None:
        raise ValueError("Image tokens start from the pictures; a denoiser and their latents are needed. Give both.")
    context = beginning.prompt_encoder.encode(PROMPT.format(beginning.noun))
    return subject_means(beginning.denoiser, context, beginning.latents)


def chosen_sites(base: Base, keys: tuple[str, ...]) -> tuple[Site, ...]:
    """The base's sites named by `keys`, in which `*` stands for anything; all of them where there are none."""
    known = {shape.site.key: shape.site for shape in base.sites}
    chosen = tuple(site for key, site in known.items() if not keys or any(fnmatchcase(key, one) for one in keys))
    refuse_unmatched(base, tuple(key for key in keys if not chosen or "*" not in key))
    return chosen


def refuse_unmatched(base: Base, keys: tuple[str, ...]) -> None:
    """ValueError for those that name no site; smaller models of a family may lack what a recipe's `*` stands for."""
    known = [shape.site.key for shape in base.sites]
    unmatched = [key for key in keys if not any(fnmatchcase(own, key) for own in known)]
    if unmatched:
        raise ValueError(
            f"The sites name {', '.join(unmatched)}, which this model does not have; "
            f"{base.family} has {', '.join(known)}. Name some of these."
        )
