"""A composition's low-rank layers on a MODEL: merged into its weights as any LoRA, or acting beside them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import comfy.model_patcher
import torch
from comfy.patcher_extension import PatcherInjection

from ..composition import Composition, PlacedConcept
from ..parts.low_rank import LowRank, Pair
from ..sites import Site
from .acting_block import eject, inject
from .concept_clip import KEY
from .family import sites_of
from .merged_layer import MergedLayer


def weave_layers(patcher: comfy.model_patcher.ModelPatcher, composition: Composition) -> frozenset[str]:
    """The composition's low-rank layers, instead of those that were on `patcher`: the words that are merged.

    The others act beside the weights. ValueError where a layer has other widths than the model's.
    """
    layers = _layers(patcher, composition)
    unmerge(patcher)
    placed = [one for one in composition if one.concept.has(LowRank) and one.strength]
    merged = [one for one in placed if one.merges]
    for one in merged:
        patches = {f"{layers[site, layer]}.weight": MergedLayer(one.word, site, pair) for site, layer, pair in _of(one)}
        patcher.add_patches(patches, one.strength)
    if len(merged) < len(placed):
        patcher.set_injections(KEY, [PatcherInjection(inject, eject)])
    return frozenset(one.word for one in merged)


def unmerge(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Take every concept's layers off a patcher of our own; other packs' patches stay as they are."""
    patcher.remove_injections(KEY)
    for key, patches in list(patcher.patches.items()):
        others = [one for one in patches if not isinstance(one[1], MergedLayer)]
        if len(others) < len(patches):
            patcher.patches_uuid = uuid.uuid4()
            patcher.patches[key] = others
        if not others:
            del patcher.patches[key]


def merged_sites(patcher: comfy.model_patcher.ModelPatcher) -> dict[str, set[Site]]:
    """word -> sites at which its layers are in the weights that this patcher stands for."""
    found: dict[str, set[Site]] = {}
    for patches in patcher.patches.values():
        for _, patch, *_ in patches:
            if isinstance(patch, MergedLayer):
                found.setdefault(patch.word, set()).add(patch.site)
    return found


def _of(placed: PlacedConcept) -> Iterator[tuple[Site, str, Pair]]:
    for part in placed.concept.parts:
        if isinstance(part, LowRank):
            for site, pairs in part.layers.items():
                yield from ((site, layer, pair) for layer, pair in pairs.items())


def _layers(patcher: comfy.model_patcher.ModelPatcher, composition: Composition) -> dict[tuple[Site, str], str]:
    """(site, layer) -> its name in the model, for every layer that a concept changes."""
    wanted = [(placed, *one) for placed in composition for one in _of(placed)]
    if not wanted:
        return {}
    names = {id(module): name for name, module in patcher.model.named_modules()}
    blocks = {shape.site: block for shape, block in sites_of(patcher.model.diffusion_model)}
    for placed, site, layer, pair in wanted:
        _refuse_other_widths(placed, site, layer, pair, blocks[site])
    return {(site, layer): f"{names[id(blocks[site])]}.{layer}" for _, site, layer, _ in wanted}


def _refuse_other_widths(placed: PlacedConcept, site: Site, name: str, pair: Pair, block: torch.nn.Module) -> None:
    layer = dict(block.named_modules()).get(name)
    here = (getattr(layer, "in_features", None), getattr(layer, "out_features", None))
    if here != (pair.a.shape[1], pair.b.shape[0]):
        raise ValueError(
            f"The concept '{placed.concept.info.name}' changes {name} at {site.key} from {pair.a.shape[1]} to "
            f"{pair.b.shape[0]} channels; this model has {here[0]} and {here[1]} there. "
            f"Load {placed.concept.info.base.name or 'the checkpoint that it was learned on'}."
        )
