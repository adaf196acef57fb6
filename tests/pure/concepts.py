"""Toy concepts for the pure ring."""

from __future__ import annotations

from dataclasses import replace

import torch
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.concept import Base, Concept, ConceptInfo
from concept_loom.personalization.parts import ContextRows
from concept_loom.personalization.sites import Site, SiteShape

SITES = (SiteShape(Site("input", 1, 0), 8, 6, 2), SiteShape(Site("middle", 0, 0), 8, 6, 2))
BASE = Base("SD 1.5", 6, {"l": 6}, SITES, "eps", "abc", "toy.safetensors")


def concept(word: str = "mug", class_word: str = "mug", phrase: str | None = None, base: Base = BASE) -> Concept:
    info = ConceptInfo(word, word, phrase or f"[V] {class_word}", class_word, "subject", base, "layerwise", seed=7)
    generator = torch.Generator().manual_seed(len(word))
    rows = {shape.site: torch.randn(info.slots, shape.context, generator=generator) for shape in base.sites}
    embeddings = {key: torch.randn(info.slots, width, generator=generator) for key, width in base.encoders.items()}
    return Concept(info, embeddings, (ContextRows(rows),))


def placed(word: str = "mug", class_word: str = "mug", phrase: str | None = None, **how: object) -> PlacedConcept:
    return replace(PlacedConcept(concept(word, class_word, phrase)), **how)
