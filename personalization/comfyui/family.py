"""ComfyUI's MODEL as a base: its family and its sites in forward order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling as host_sampling
import torch
from comfy import supported_models
from comfy.ldm.modules.attention import BasicTransformerBlock, CrossAttention, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ..concept import Base
from ..sites import Site, SiteShape
from .fingerprint import fingerprint_of

# family: configuration class of the host, and the text encoders' widths in the order of their channels
FAMILIES = {
    "SDXL": (supported_models.SDXL, {"l": 768, "g": 1280}),
    "SD 2": (supported_models.SD20, {"h": 1024}),
    "SD 1.5": (supported_models.SD15, {"l": 768}),
}
OTHER_TASKS = (supported_models.SD_X4Upscaler, supported_models.LotusD)  # the host's kinds of SD 2 that draw no prompts
PREDICTIONS = {  # a kind of the host before the one that it is derived from
    host_sampling.EDM: "edm",
    host_sampling.V_PREDICTION: "v",
    host_sampling.X0: "x0",
    host_sampling.EPS: "eps",
    host_sampling.CONST: "flow",
}


def base_of(model: comfy.model_patcher.ModelPatcher, name: str = "", fingerprint: bool = True) -> Base:
    """What a concept must know of this MODEL; ValueError when its family is not supported.

    Packed weights get no fingerprint: they are not those of a checkpoint, and some packs do not show them.
    """
    prediction = prediction_of(model)
    family, encoders = _family(model.model, prediction)
    shapes = tuple(shape for shape, _ in sites_of(model.model.diffusion_model))
    return Base(
        family,
        sum(encoders.values()),
        encoders,
        shapes,
        prediction,
        fingerprint_of(model) if fingerprint and not packed_as(model) else "",
        name,
    )


def packed_as(model: comfy.model_patcher.ModelPatcher) -> str:
    """The type of weights that are unpacked in every call, as GGUF packs' are: "uint8". Empty where none are."""
    types = (one.dtype for one in model.model.diffusion_model.parameters() if not one.is_floating_point())
    return str(next(types, "")).removeprefix("torch.")


def merges_itself(model: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the pack that packed the weights also merges LoRAs into them; the host would take bytes for numbers."""
    return type(model).patch_weight_to_device.__module__ != comfy.model_patcher.__name__


def prediction_of(model: comfy.model_patcher.ModelPatcher) -> str:
    """What the denoiser predicts, where a node (ModelSamplingDiscrete) has said so as it says; "" = unknown to us."""
    sampling = model.get_model_object("model_sampling")
    return next((name for kind, name in PREDICTIONS.items() if isinstance(sampling, kind)), "")


def sites_of(unet: UNetModel) -> Iterator[tuple[SiteShape, BasicTransformerBlock]]:
    """Every transformer block with text attention, in forward order, under the name that the host's patches see."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    for block, layers in (("input", unet.input_blocks), ("middle", middle), ("output", unet.output_blocks)):
        for number, layer in enumerate(layers):
            for index, transformer in _transformers(layer):
                attention = cast(CrossAttention, transformer.attn2)  # the blocks without one were passed over
                yield (
                    SiteShape(
                        Site(block, number, index),
                        attention.to_q.in_features,  # a packed weight's own shape is another
                        attention.to_k.in_features,
                        attention.heads,
                    ),
                    transformer,
                )


def _transformers(layer: torch.nn.Module) -> Iterator[tuple[int, BasicTransformerBlock]]:
    for module in cast(torch.nn.Sequential, layer):
        if isinstance(module, SpatialTransformer):
            blocks = cast(Iterable[BasicTransformerBlock], module.transformer_blocks)
            yield from ((index, one) for index, one in enumerate(blocks) if one.attn2 is not None)


def _family(model: comfy.model_base.BaseModel, prediction: str) -> tuple[str, Mapping[str, int]]:
    config = model.model_config
    context = config.unet_config.get("context_dim")
    marked = getattr(type(config), "concept_loom_family", None)  # an instance would warn about what it lacks
    if marked and prediction:
        return marked, {"l": context}
    for family, (kind, encoders) in FAMILIES.items():
        ours = isinstance(config, kind) and not isinstance(config, OTHER_TASKS)
        if ours and sum(encoders.values()) == context and prediction:
            return family, encoders
    raise ValueError(
        f"This model is a {type(config).__name__} (context {context}, {model.model_type.name}). Concepts act in "
        "SD 1.5, SD 2 and SDXL models so far. Load a checkpoint of one of these."
    )
