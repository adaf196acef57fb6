"""What other packs put on a MODEL, in the ways that they do it, and files that ComfyUI's own loaders read."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import torch
from comfy.cldm.cldm import ControlNet
from comfy.controlnet import ControlNet as ControlNetPatcher
from comfy.ldm.modules.attention import optimized_attention
from safetensors.torch import save_file
from torch import Tensor

from . import tiny

LORA, HYPERNETWORK = "neighbour.safetensors", "neighbour.pt"


def write_files(folder: Path) -> None:
    """A LoRA in kohya's layout and a hypernetwork, where ComfyUI's loaders look."""
    widths = {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (32, 768),
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": (64, 64),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (64, 768),
    }
    lora = {}
    for seed, (name, (out, into)) in enumerate(widths.items()):
        lora[f"{name}.lora_down.weight"] = random(4, into, seed=seed, much=0.3)
        lora[f"{name}.lora_up.weight"] = random(out, 4, seed=seed + 9, much=0.3)
    save_file(lora, folder / LORA)
    weights = (random(768, 768, seed=seed, much=0.02) for seed in (20, 21))  # of keys and of values
    layers = [{"linear.weight": weight, "linear.bias": torch.zeros(768)} for weight in weights]
    torch.save({768: layers, "activation_func": "linear"}, folder / HYPERNETWORK)
    for kind in ("loras", "hypernetworks"):
        folder_paths.add_model_folder_path(kind, str(folder), is_default=True)


def random(*shape: int, seed: int, much: float = 1.0) -> Tensor:
    return much * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def other_model():
    model = tiny.fresh_model()
    tiny.fill(model.model.diffusion_model, 33)
    return model


def lora(model):
    clone = model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    clone.add_patches({key: (random(32, 768, seed=5, much=0.05),)}, 1.0)
    return clone


def adapter(model):
    """As IPAdapter does it: every attn2 is replaced by attention plus something of the pack's own."""

    def replacement(q, k, v, extra):
        return optimized_attention(q, k, v, extra["n_heads"]) + 0.3

    clone = model.clone()
    for shape in tiny.concept().info.base.sites:
        clone.set_model_attn2_replace(replacement, *shape.site[:2])
    return clone


def self_attention_owner(model):
    def replacement(q, k, v, extra):
        return 0.7 * optimized_attention(q, k, v, extra["n_heads"])

    clone = model.clone()
    for shape in tiny.concept().info.base.sites:
        clone.set_model_attn1_replace(replacement, *shape.site[:2])
    return clone


def parting(model):
    """An attn2_patch that gives keys and values contexts of their own, as hypernetworks do."""
    clone = model.clone()
    clone.set_model_attn2_patch(lambda n, context, value, extra: (n, context * 1.1, value * 0.9))
    return clone


def appending(model):
    """An attn2_patch that appends tokens of a picture to the text."""
    tokens = random(1, 4, 768, seed=3)

    def patch(n, context, value, extra):
        longer = torch.cat([context, tokens.expand(len(context), -1, -1)], 1)
        return n, longer, longer

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return clone


def coupling(model):
    """An attn2_patch with prompts of its own in the place of the sampler's, two for each sample, mixed afterwards."""
    own = random(2, 77, 768, seed=4)

    def patch(n, context, value, extra):
        both = own.repeat_interleave(len(context), 0)
        return torch.cat([n, n]), both, both

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    clone.set_model_attn2_output_patch(lambda out, extra: sum(out.chunk(2)) / 2)
    return clone


def reference(model):
    """An attn1_patch that lets the picture look at another one, as reference-only packs do."""

    def patch(n, context, value, extra):
        longer = torch.cat([context, 0.5 * context.flip(1)], 1)
        return n, longer, longer

    clone = model.clone()
    clone.set_model_attn1_patch(patch)
    return clone


def override(model):
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda func, *args, **kwargs: 0.9 * func(*args, **kwargs)
    return clone


def function_wrapper(model):
    def wrapper(apply, given):
        return 0.9 * apply(given["input"], given["timestep"], **given["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def tiled(model, at_once: int = 2):
    """As TiledDiffusion: tiles of the whole batch in one batch, tile after tile, and the host's lists as they were."""

    def wrapper(apply, given):
        x, t, c = given["input"], given["timestep"], given["c"]

        def drawn(tiles: tuple[Tensor, ...]) -> Tensor:
            def of_all(one):
                return torch.cat([one] * len(tiles)) if isinstance(one, Tensor) and len(one) == len(x) else one

            return apply(torch.cat(tiles), of_all(t), **{name: of_all(one) for name, one in c.items()})

        tiles = x.chunk(2, -1)
        groups = [tiles[start : start + at_once] for start in range(0, len(tiles), at_once)]
        return torch.cat([part for group in groups for part in drawn(group).chunk(len(group))], -1)

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def controlnet() -> ControlNetPatcher:
    config = {
        "image_size": 32,
        "in_channels": 4,
        "hint_channels": 3,
        "model_channels": 32,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [1, 1],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "use_spatial_transformer": True,
        "legacy": False,
        "num_heads": 4,
        "dtype": torch.float32,
    }
    network = ControlNet(**config)
    tiny.fill(network, 8)
    return ControlNetPatcher(network, load_device=tiny.CPU, manual_cast_dtype=None)
