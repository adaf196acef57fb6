"""Tiny random models in ComfyUI's own classes: families as they are, narrow and shallow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from inspect import signature

import comfy.model_patcher
import comfy.sd
import torch
from comfy import supported_models
from comfy.supported_models_base import ClipTarget
from concept_loom.personalization.comfyui.family import base_of
from concept_loom.personalization.concept import Concept, ConceptInfo
from concept_loom.personalization.parts import ContextRows, LatentInstruction, LowRank
from concept_loom.personalization.parts.low_rank import Pair, layer_widths
from concept_loom.personalization.parts.per_site import PerSite

CONFIGS = {"SD 1.5": supported_models.SD15, "SD 2": supported_models.SD20, "SDXL": supported_models.SDXL}
V_NORM = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}  # of SD 2's 768-v
HINTS = {"SD 2": V_NORM}
CONTEXT = {"SD 1.5": 768, "SD 2": 1024, "SDXL": 2048}
CPU = torch.device("cpu")
DEEP_CLONES = "force_deepcopy" in signature(comfy.model_patcher.ModelPatcher.clone).parameters  # not in ComfyUI 0.18


def fresh_model(
    family: str = "SD 1.5",
    dtype: torch.dtype = torch.float32,
    manual: torch.dtype | None = None,
    kind: type[supported_models.SD15 | supported_models.SD20 | supported_models.SDXL] | None = None,
    channels: int = 4,
    hints: Mapping[str, torch.Tensor] | None = None,
):
    """A ModelPatcher over an untrained UNet with 7 sites whose text attention is loud enough to measure.

    `hints` are what ComfyUI reads off a checkpoint's weights, beside their shapes, to tell what it is.
    """
    config = (kind or CONFIGS[family])(_unet(family, dtype, channels))
    config.manual_cast_dtype = manual
    model = config.get_model(HINTS.get(family, {}) if hints is None else hints, device=CPU)
    fill(model.diffusion_model, 3)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def fresh_clip(family: str = "SD 1.5") -> comfy.sd.CLIP:
    """A CLIP with the family's real tokenizers and encoder classes, three layers deep."""
    target = CONFIGS[family](_unet(family, torch.float32)).clip_target({})
    small = {"num_hidden_layers": 3, "intermediate_size": 64}
    names = {"SD 1.5": ["clip_l"], "SD 2": ["clip_h"], "SDXL": ["clip_l", "clip_g"]}[family]
    options = {f"{name}_model_config": small for name in names}
    holder = ClipTarget(target.tokenizer, target.clip)
    clip = comfy.sd.CLIP(holder, embedding_directory=[], model_options={**options, "dtype": torch.float32})
    fill(clip.cond_stage_model, 4)
    return clip


@cache
def model(family: str = "SD 1.5"):
    return fresh_model(family)


@cache
def clip(family: str = "SD 1.5") -> comfy.sd.CLIP:
    return fresh_clip(family)


@cache
def concept(
    word: str = "mug", class_word: str = "mug", family: str = "SD 1.5", phrase: str = "[V] {}", trained: bool = True
) -> Concept:
    """A random concept of the family, loud at every site; `trained` = with embeddings of its own."""
    base = base_of(model(family))
    generator = torch.Generator().manual_seed(sum(map(ord, word)))
    info = ConceptInfo(word, word, phrase.format(class_word), class_word, "subject", base, "layerwise")
    rows = {shape.site: 3 * torch.randn(info.slots, base.context_width, generator=generator) for shape in base.sites}
    embeddings = {
        key: 0.1 * torch.randn(info.slots, width, generator=generator) for key, width in base.encoders.items()
    }
    return Concept(info, embeddings if trained else {}, (ContextRows(rows),))


def guest(kind: type[PerSite], one: Concept) -> Concept:
    """`one` with three loud random tokens of that kind at every site instead of its parts."""
    generator = torch.Generator().manual_seed(sum(map(ord, one.info.name)) + 1)
    shapes = {shape.site: kind.shape_at(shape, 1)[1] for shape in one.info.base.sites}
    rows = {site: 3 * torch.randn(3, width or 0, generator=generator) for site, width in shapes.items()}
    if kind is LatentInstruction:
        return replace(one, parts=(LatentInstruction.at(rows, next(iter(rows.values()))),))
    return replace(one, parts=(kind(rows),))


def low_rank(one: Concept, rank: int = 3, loud: float = 0.5) -> Concept:
    """`one` with random layers of that rank in every block instead of its parts."""
    generator = torch.Generator().manual_seed(sum(map(ord, one.info.name)) + 2)

    def pair(into: int, out: int) -> Pair:
        a = torch.randn(rank, into, generator=generator) / into**0.5
        return Pair(a, loud * torch.randn(out, rank, generator=generator) / rank)

    shapes = one.info.base.sites
    layers = {shape.site: {name: pair(*widths) for name, widths in layer_widths(shape).items()} for shape in shapes}
    return replace(one, parts=(LowRank(layers),))


def without_parts(one: Concept) -> Concept:
    return replace(one, parts=())


def fill(module: torch.nn.Module, seed: int) -> None:
    """The host's layers hold uninitialised memory. Big tables repeat a small random one: drawing them takes seconds."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(_values(name, parameter, generator))


def _values(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shape = parameter.shape
    if len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    if "token_embedding" in name:
        return 0.1 * torch.randn(991, shape[1], generator=generator)[torch.arange(shape[0]) % 991]
    spread = 3.0 if ".attn2." in name else 1.0
    return spread * torch.randn(shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5


def _unet(family: str, dtype: torch.dtype, channels: int = 4) -> dict[str, object]:
    xl = family == "SDXL"
    return {
        "image_size": 32,
        "in_channels": channels,
        "out_channels": 4,
        "model_channels": 32 if family == "SD 1.5" else 64,  # one head of the wide families has 64 channels
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 2] if xl else [1, 1],
        "transformer_depth_middle": 2 if xl else 1,
        "transformer_depth_output": [1, 1, 2, 2] if xl else [1, 1, 1, 1],
        "context_dim": CONTEXT[family],
        "use_linear_in_transformer": family != "SD 1.5",
        "adm_in_channels": 2816 if xl else None,
        "num_classes": "sequential" if xl else None,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_heads": 4 if family == "SD 1.5" else -1,
        "num_head_channels": -1 if family == "SD 1.5" else 16,
        "use_temporal_attention": False,
        "dtype": dtype,
    }
