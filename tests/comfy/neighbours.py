"""Other nodes beside ours, a case each: on the MODEL or CLIP, at the prompts, or at the sampler.

`test_neighbours.py` runs every case and holds what it claims; `dev.py docs` writes them down for people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import comfy_extras.nodes_attention_multiply as attention_multiply
import comfy_extras.nodes_cfg as cfg_nodes
import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_differential_diffusion as differential
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_hooks as hooks
import comfy_extras.nodes_hypernetwork as hypernetwork
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_model_downscale as downscale
import comfy_extras.nodes_model_merging as merging
import comfy_extras.nodes_nag as nag
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_perpneg as perpneg
import comfy_extras.nodes_sag as sag
import comfy_extras.nodes_tomesd as tomesd
import comfy_extras.nodes_torch_compile as torch_compile
import torch
from torch import Tensor

import nodes

from . import other_packs as packs
from . import tiny

Conditioning = Any
Draw = Callable[[Any, Conditioning, Conditioning], Tensor]

SITES = 7  # of the tiny SD 1.5
PARTS = {  # word -> the part of its concept
    "mug": "context rows",
    "tin": "context rows in a region",
    "hat": "image tokens",
    "cup": "nested values",
    "bag": "instruction",
    "shoe": "low rank, sparing",
}
OTHERS = {word: 0 for word in PARTS}
IN_TEXT_ATTENTION = {"tin": 0, "cup": 0, "bag": 0}
OWNED, REPLACED = "another pack owns the attention", "another pack replaces them"


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A node, or a few that belong together, beside Compose Concepts.

    `acted` has the words that do not act at every site, and at how many they do; `says` is then in their report.
    """

    name: str
    model: Callable[[Any], Any] | None = None  # before or after Compose
    clip: Callable[[Any], Any] | None = None
    prompts: Callable[[Conditioning, Conditioning], tuple[Conditioning, Conditioning]] | None = None
    draw: Draw | None = None  # KSampler unless given
    like: Draw | None = None  # the drawing without the node: KSampler unless given
    same: bool = False  # it draws the picture that `like` draws
    acted: Mapping[str, int] = field(default_factory=dict)
    says: str = ""
    note: str = ""


@torch.inference_mode()
def ksampler(
    model, positive, negative, steps=2, cfg=4.0, denoise=1.0, latent=None, sampler="euler", schedule="normal"
) -> Tensor:
    latent = {"samples": torch.zeros(1, 4, 16, 16)} if latent is None else latent
    torch.manual_seed(0)  # some nodes draw from torch's own generator
    given = (model, 1, steps, cfg, sampler, schedule, positive, negative, latent)
    return nodes.KSampler().sample(*given, denoise=denoise)[0]["samples"]


def sampled(**how: Any) -> Draw:
    return lambda *given: ksampler(*given, **how)


@torch.inference_mode()
def guided(guider, sigmas: Tensor | None = None) -> Tensor:
    """SamplerCustomAdvanced."""
    if sigmas is None:
        sigmas = custom.BasicScheduler.execute(tiny.model(), "normal", 2, 1.0)[0]
    given = custom.RandomNoise.execute(1)[0], guider, custom.KSamplerSelect.execute("euler")[0], sigmas
    return custom.SamplerCustomAdvanced.execute(*given, {"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]


def said(text: str) -> Conditioning:
    """A prompt without any of our words."""
    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(tiny.clip(), text)[0]


def picture() -> dict[str, Tensor]:
    return {"samples": packs.random(1, 4, 16, 16, seed=9)}


def left() -> Tensor:
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1
    return mask


# On the MODEL


def loaded_lora(model):
    return nodes.LoraLoader().load_lora(model, tiny.clip(), packs.LORA, 1.0, 1.0)[0]


def loaded_lora_clip(clip):
    return nodes.LoraLoader().load_lora(tiny.model(), clip, packs.LORA, 1.0, 1.0)[1]


def deep_shrink(model):
    return downscale.PatchModelAddDownscale.execute(model, 2, 2.0, 0.0, 0.8, True, "bicubic", "bicubic")[0]


def compiled(model):
    return torch_compile.TorchCompileModel.execute(model, "eager")[0]


def sampling(kind: str) -> Callable[[Any], Any]:
    return lambda model: advanced.ModelSamplingDiscrete().patch(model, kind, False)[0]


MODEL = (
    Neighbour("Load LoRA", loaded_lora, loaded_lora_clip),
    Neighbour(
        "ModelMergeSimple",
        lambda model: merging.ModelMergeSimple().merge(model, packs.other_model(), 0.5)[0],
        note="Compose's MODEL as model1; of model2 only weights are taken. Layers that are merged into the weights "
        "count as a LoRA's: before the merge they are merged with it.",
    ),
    Neighbour("FreeU", lambda model: freelunch.FreeU.execute(model, 1.1, 1.2, 0.9, 0.2)[0]),
    Neighbour("FreeU_V2", lambda model: freelunch.FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2)[0]),
    Neighbour("PerturbedAttentionGuidance", lambda model: pag.PerturbedAttentionGuidance.execute(model, 3.0)[0]),
    Neighbour(
        "Self-Attention Guidance",
        lambda model: sag.SelfAttentionGuidance.execute(model, 0.5, 2.0)[0],
        acted={"hat": 6},
        says=OWNED,
        note="It replaces the middle block's self-attention.",
    ),
    Neighbour("Normalized Attention Guidance", lambda model: nag.NAGuidance.execute(model, 5.0, 0.5, 1.5)[0]),
    Neighbour("RescaleCFG", lambda model: advanced.RescaleCFG().patch(model, 0.7)[0]),
    Neighbour("CFGNorm", lambda model: cfg_nodes.CFGNorm.execute(model, 0.8)[0]),
    Neighbour(
        "HyperTile",
        lambda model: hypertile.HyperTile.execute(model, 64, 1, 0, False)[0],
        acted={"hat": 4},
        says=OWNED,
        note="Where it cuts the picture into tiles, there is no place for image tokens.",
    ),
    Neighbour(
        "TomePatchModel",
        lambda model: tomesd.TomePatchModel.execute(model, 0.3)[0],
        acted={"hat": 4},
        says=OWNED,
        note="Where it merges the picture's tokens, there is no place for image tokens.",
    ),
    Neighbour("PatchModelAddDownscale (Kohya Deep Shrink)", deep_shrink),
    Neighbour(
        "UNetSelfAttentionMultiply",
        lambda model: attention_multiply.UNetSelfAttentionMultiply.execute(model, 1.1, 1.0, 0.9, 1.0)[0],
    ),
    Neighbour(
        "UNetCrossAttentionMultiply",
        lambda model: attention_multiply.UNetCrossAttentionMultiply.execute(model, 1.1, 1.0, 0.9, 1.0)[0],
    ),
    Neighbour(
        "Load Hypernetwork",
        lambda model: hypernetwork.HypernetworkLoader.execute(model, packs.HYPERNETWORK, 1.0)[0],
        note="What a concept brings does not pass through it, as in learning.",
    ),
    Neighbour("ModelSamplingDiscrete, v_prediction", sampling("v_prediction")),
    Neighbour(
        "ModelSamplingDiscrete, lcm; KSampler, lcm, 4 steps",
        sampling("lcm"),
        draw=sampled(steps=4, cfg=1.5, sampler="lcm", schedule="sgm_uniform"),
        like=sampled(steps=4, cfg=1.5, sampler="lcm", schedule="sgm_uniform"),
    ),
    Neighbour(
        "EasyCache",
        lambda model: easycache.EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False)[0],
        draw=sampled(steps=5),
        like=sampled(steps=5),
    ),
    Neighbour(
        "TorchCompileModel",
        compiled,
        same=True,
        note="Tried with the backend eager, which compiles nothing; inductor needs a C++ compiler or Triton, and says "
        "so itself when there is none.",
    ),
    Neighbour(
        "Another pack's attn2 replace, as of IPAdapter",
        packs.adapter,
        acted=IN_TEXT_ATTENTION,
        says=REPLACED,
        note="The pack computes the text attention itself.",
    ),
    Neighbour(
        "Another pack's attn1 replace",
        packs.self_attention_owner,
        acted={"hat": 0},
        says=REPLACED,
        note="The pack computes the self-attention itself.",
    ),
    Neighbour("Another pack's attn2 patch that parts keys and values", packs.parting),
    Neighbour("Another pack's attn2 patch that appends tokens", packs.appending),
    Neighbour(
        "Another pack's attn2 patch with prompts of its own, as Attention Couple",
        packs.coupling,
        acted={"mug": 0, **IN_TEXT_ATTENTION},
        says=REPLACED,
        note="The pack puts prompts that it got as inputs in the place of the sampler's.",
    ),
    Neighbour("Another pack's attn1 patch that appends tokens, as reference-only", packs.reference),
    Neighbour("Another pack's attention override", packs.override),
    Neighbour("Another pack's model function wrapper", packs.function_wrapper),
    Neighbour(
        "Another pack that draws in tiles, as TiledDiffusion",
        packs.tiled,
        note="Every tile counts as the whole picture: a region is then one of each tile.",
    ),
)


# On the CLIP and at the prompts


def hooked(clip):
    """A LoRA as a hook: there in the first half of sampling, gone in the second."""
    group = hooks.CreateHookLora().create_hook(packs.LORA, 1.0, 1.0)[0]
    frames = hooks.CreateHookKeyframe().create_hook_keyframe(1.0, 0.0)[0]
    frames = hooks.CreateHookKeyframe().create_hook_keyframe(0.0, 0.5, frames)[0]
    group = hooks.SetHookKeyframes().set_hook_keyframes(group, frames)[0]
    return hooks.SetClipHooks().apply_hooks(clip, True, True, group)[0]


def in_halves(positive, negative):
    areas = nodes.ConditioningSetArea()
    other = areas.append(said("a tree"), 64, 128, 64, 0, 1.0)[0]
    return areas.append(positive, 64, 128, 0, 0, 1.0)[0] + other, negative


def masked(positive, negative):
    masks = nodes.ConditioningSetMask()
    other = masks.append(said("a tree"), 1 - left(), "default", 1.0)[0]
    return masks.append(positive, left(), "default", 1.0)[0] + other, negative


def in_turn(positive, negative):
    ranges = nodes.ConditioningSetTimestepRange()
    return ranges.set_range(positive, 0.0, 0.5)[0] + ranges.set_range(said("a tree"), 0.5, 1.0)[0], negative


def controlled(positive, negative):
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, packs.controlnet(), hint, 0.2, 0.0, 1.0)


def combined(positive, negative):
    return nodes.ConditioningCombine().combine(said("a tree"), positive)[0], negative


def joined(positive, negative):
    return nodes.ConditioningConcat().concat(positive, said("a tree"))[0], negative


def averaged(positive, negative):
    return nodes.ConditioningAverage().addWeighted(positive, said("a tree"), 0.5)[0], negative


PROMPTS = (
    Neighbour("CLIP Set Last Layer", clip=lambda clip: nodes.CLIPSetLastLayer().set_last_layer(clip, -2)[0]),
    Neighbour(
        "Create Hook LoRA, Set Hook Keyframes, Set CLIP Hooks",
        clip=hooked,
        draw=sampled(steps=4),
        like=sampled(steps=4),
    ),
    Neighbour("Apply ControlNet", prompts=controlled),
    Neighbour("Conditioning (Set Area)", prompts=in_halves),
    Neighbour("Conditioning (Set Mask)", prompts=masked),
    Neighbour("ConditioningSetTimestepRange", prompts=in_turn, draw=sampled(steps=4), like=sampled(steps=4)),
    Neighbour("Conditioning (Combine)", prompts=combined),
    Neighbour("Conditioning (Concat)", prompts=joined),
    Neighbour(
        "ConditioningAverage",
        prompts=averaged,
        acted=OTHERS,
        says="has mixed or changed its rows",
        note="The mean of two prompts holds neither's words.",
    ),
)


# At the sampler


@torch.inference_mode()
def two_samplers(model, positive, negative) -> Tensor:
    node, latent = nodes.KSamplerAdvanced(), {"samples": torch.zeros(1, 4, 16, 16)}
    how = (2, 4.0, "euler", "normal", positive, negative)
    half = node.sample(model, "enable", 1, *how, latent, 0, 1, "enable")[0]
    return node.sample(model, "disable", 1, *how, half, 1, 10000, "disable")[0]["samples"]


@torch.inference_mode()
def sampler_custom(model, positive, negative) -> Tensor:
    sigmas = custom.BasicScheduler.execute(tiny.model(), "normal", 2, 1.0)[0]
    given = (model, True, 1, 4.0, positive, negative, custom.KSamplerSelect.execute("euler")[0], sigmas)
    return custom.SamplerCustom.execute(*given, {"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]


def turbo(model, positive, negative) -> Tensor:
    sigmas = custom.SDTurboScheduler.execute(tiny.model(), 1, 1.0)[0]
    return guided(custom.CFGGuider.execute(model, positive, negative, 1.0)[0], sigmas)


def dual(model, positive, negative) -> Tensor:
    return guided(custom.DualCFGGuider.execute(model, positive, said("a tree"), negative, 3.0, 2.0, "regular")[0])


def perp_neg(model, positive, negative) -> Tensor:
    return guided(perpneg.PerpNegGuider.execute(model, positive, negative, said(""), 4.0, 1.0)[0])


@torch.inference_mode()
def upscaled(model, positive, negative) -> Tensor:
    small = {"samples": ksampler(model, positive, negative)}
    larger = nodes.LatentUpscaleBy().upscale(small, "bicubic", 1.5)[0]
    return ksampler(model, positive, negative, denoise=0.6, latent=larger)


def inpainted(model, positive, negative) -> Tensor:
    latent = nodes.SetLatentNoiseMask().set_mask(picture(), left())[0]
    return ksampler(model, positive, negative, latent=latent)


def softly_inpainted(model, positive, negative) -> Tensor:
    slope = torch.linspace(0, 1, 16).expand(1, 16, 16)
    latent = nodes.SetLatentNoiseMask().set_mask(picture(), slope)[0]
    return ksampler(model, positive, negative, latent=latent)


def four(model, positive, negative) -> Tensor:
    return ksampler(model, positive, negative, latent={"samples": torch.zeros(4, 4, 16, 16)})


def in_windows(model, overlap=1, schedule="standard_static", shuffled=True, anchored=True):
    """Two frames at a time."""
    how = (2, overlap, schedule, 1, False, "pyramid", 0, shuffled)
    node: Any = context_windows.ContextWindowsManualNode  # its annotation says MODEL, and it gives a node's output
    anchor = {"causal_window_fix": anchored} if "causal_window_fix" in signature(node.execute).parameters else {}
    return node.execute(model, *how, **anchor)[0]


def few(steps: int) -> Neighbour:
    draw = sampled(steps=steps, cfg=1.0, schedule="sgm_uniform")
    return Neighbour(f"KSampler, sgm_uniform, {steps} step{'s'[: steps > 1]}, cfg 1", draw=draw)


SAMPLERS = (
    Neighbour("KSampler", draw=ksampler, same=True),
    Neighbour("KSampler (Advanced), two in a row", draw=two_samplers, same=True),
    Neighbour("SamplerCustom", draw=sampler_custom, same=True),
    Neighbour(
        "SamplerCustomAdvanced, CFGGuider",
        draw=lambda m, p, n: guided(custom.CFGGuider.execute(m, p, n, 4.0)[0]),
        same=True,
    ),
    Neighbour(
        "SamplerCustomAdvanced, BasicGuider",
        draw=lambda m, p, n: guided(custom.BasicGuider.execute(m, p)[0]),
        like=sampled(cfg=1.0),
        same=True,
    ),
    Neighbour("SamplerCustomAdvanced, DualCFGGuider", draw=dual),
    Neighbour("SamplerCustomAdvanced, PerpNegGuider", draw=perp_neg),
    Neighbour("KSampler, cfg 1", draw=sampled(cfg=1.0)),
    Neighbour("KSampler, four pictures", draw=four),
    Neighbour("Context Windows (Manual), four frames", in_windows, draw=four, like=four),
    Neighbour("KSampler, image to image", draw=sampled(denoise=0.6, latent=picture())),
    Neighbour("SetLatentNoiseMask (inpainting)", draw=inpainted),
    Neighbour(
        "Differential Diffusion",
        lambda model: differential.DifferentialDiffusion.execute(model, 1.0)[0],
        draw=softly_inpainted,
        like=softly_inpainted,
    ),
    Neighbour("Upscale Latent By, KSampler again", draw=upscaled),
    few(1),
    few(4),
    Neighbour("SDTurboScheduler, 1 step, cfg 1", draw=turbo),
)

EVERY = (*MODEL, *PROMPTS, *SAMPLERS)
