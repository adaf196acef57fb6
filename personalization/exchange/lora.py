"""LoRA files (Hu et al., arXiv 2106.09685) as low-rank parts, and low-rank parts as such files.

    theirs:  W' = W + (alpha / r) up down      ours:  W' = W + (ALPHA / r) b a      so  a = down,  b = alpha / ALPHA up

Read are kohya's keys, diffusers' old and new ones, and those of the original checkpoints (ComfyUI's own Train LoRA).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..concept import Base
from ..parts.low_rank import ALPHA, LowRank, Pair, layer_widths
from ..sites import Site
from .adapter import Adapter, adapter_of
from .foreign import unusable
from .names import Layer, diffusers_name, flat, known_layers, original_name, period_of

ENDS = {  # how files end the names of up and down
    ".lora_up.weight": ".lora_down.weight",
    "_lora.up.weight": "_lora.down.weight",
    ".lora.up.weight": ".lora.down.weight",
    ".lora_linear_layer.up.weight": ".lora_linear_layer.down.weight",
    ".lora_B.weight": ".lora_A.weight",
    ".lora_B.default.weight": ".lora_A.default.weight",
}
PREFIX = re.compile(r"^(base_model\.model\.)?(unet\.|lora_unet_|model\.diffusion_model\.|diffusion_model\.)?")
TEXT = re.compile(r"^(base_model\.model\.)?(lora_te|text_encoder)")
OTHER_KINDS = {
    ".hada_": "LoHa",
    ".lokr_": "LoKr",
    ".oft_": "OFT",
    ".dora_scale": "DoRA",
    ".lora_magnitude": "DoRA",
    ".lora_mid": "LoCon",
}


class Found(NamedTuple):
    """What of a LoRA file can act as a concept. `elsewhere` counts the layers that it changes outside our sites."""

    base: Base
    part: LowRank
    elsewhere: int
    text: int  # ... and of these, in text encoders


class _Change(NamedTuple):
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def pair(self) -> Pair:
        return Pair(_flat_kernel(self.down), self.alpha / ALPHA * _flat_kernel(self.up))


def is_lora(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(tuple(ENDS)) for name in tensors) or _other_kind(tensors) != ""


def low_rank_in(tensors: Mapping[str, Tensor], path: Path, bases: Sequence[Base]) -> Found:
    """The part, for the base that most of the file's layers fit; ConceptFileError where nothing of it can act."""
    kind = _other_kind(tensors)
    if kind:
        raise unusable(path, f"changes weights as a {kind} does, which is more than two matrices per layer")
    changes = dict(_changes(tensors, path, adapter_of(path)))
    fitting = [(base, _fitting(changes, base)) for base in bases]
    base, layers = max(fitting, key=lambda one: sum(map(len, one[1].values())))
    if not layers:
        raise unusable(path, f"has no layer that fits a transformer block of {', '.join(one.family for one in bases)}")
    text = sum(bool(TEXT.match(name)) for name in changes)
    return Found(base, LowRank(layers), len(changes) - sum(map(len, layers.values())), text)


def kohya_tensors(part: LowRank, base: Base) -> dict[str, Tensor]:
    """SDXL files name layers as the original checkpoint does, all others as diffusers; `alpha` stands beside them."""
    named = original_name if base.family == "SDXL" else _diffusers_names(base)
    found = {}
    for site, layer, pair in _pairs(part):
        name = f"lora_unet_{flat(f'{named(site)}.{layer}')}"
        found |= {f"{name}.lora_down.weight": pair.a, f"{name}.lora_up.weight": pair.b}
        found[f"{name}.alpha"] = torch.tensor(ALPHA)
    return _written(found)


def diffusers_tensors(part: LowRank, base: Base) -> dict[str, Tensor]:
    """The older of diffusers' two namings: it and ComfyUI read that one. It has no alpha; the scale is in `up`."""
    named, found = _diffusers_names(base), {}
    for site, layer, pair in _pairs(part):
        own = f"processor.{layer.removesuffix('.0').split('.')[1]}_lora" if "to_" in layer else "lora"
        block = f"unet.{named(site)}.{layer.split('.')[0] if 'to_' in layer else layer}"
        scaled = ALPHA / len(pair.a) * pair.b
        found |= {f"{block}.{own}.down.weight": pair.a, f"{block}.{own}.up.weight": scaled}
    return _written(found)


def _diffusers_names(base: Base):
    period = period_of(base.sites)
    return lambda site: diffusers_name(site, period)


def _pairs(part: LowRank) -> Iterable[tuple[Site, str, Pair]]:
    return ((site, layer, pair) for site, pairs in part.layers.items() for layer, pair in pairs.items())


def _written(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _other_kind(tensors: Iterable[str]) -> str:
    return next((kind for name in tensors for mark, kind in OTHER_KINDS.items() if mark in name), "")


def _changes(tensors: Mapping[str, Tensor], path: Path, adapter: Adapter) -> Iterable[tuple[str, _Change]]:
    for name, up in tensors.items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        if end is None:
            continue
        layer = name.removesuffix(end)
        down = tensors.get(layer + ENDS[end])
        if down is None or up.ndim < 2 or down.ndim < 2 or up.shape[1] != down.shape[0] or not len(down):
            raise unusable(path, f"has no pair of matrices of one rank for the layer '{layer}'")
        alpha = tensors.get(f"{layer}.alpha")
        said = adapter.alpha(PREFIX.sub("", layer), len(down)) if alpha is None else _number(alpha, layer, path)
        yield layer, _Change(down, up, said)


def _number(alpha: Tensor, layer: str, path: Path) -> float:
    if alpha.numel() != 1:
        raise unusable(path, f"has no single alpha for the layer '{layer}'")
    return float(alpha.flatten()[0])


def _fitting(changes: Mapping[str, _Change], base: Base) -> dict[Site, dict[str, Pair]]:
    """The changes of this base's layers, in the order of its sites; none where one has other widths."""
    known, widths = known_layers(base.sites), {shape.site: layer_widths(shape) for shape in base.sites}
    found: dict[Site, dict[str, Pair]] = {shape.site: {} for shape in base.sites}
    for name, change in changes.items():
        place = _place(name, known)
        if place:
            site, layer = place
            pair = change.pair
            if (pair.a.shape[1:], pair.b.shape[:1]) != (widths[site][layer][:1], widths[site][layer][1:]):
                return {}
            found[site][layer] = pair
    return {site: pairs for site, pairs in found.items() if pairs}


def _place(name: str, known: Mapping[str, Layer]) -> Layer | None:
    if TEXT.match(name):
        return None
    return known.get(flat(PREFIX.sub("", name).replace(".processor.", ".")))


def _flat_kernel(weight: Tensor) -> Tensor:
    """Linear layers that are stored as 1 x 1 convolutions."""
    return weight.flatten(1) if weight.shape[2:].numel() == 1 else weight
