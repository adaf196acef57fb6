"""Checkpoints of real architectures with random weights, in the real file layouts: shapes and speed, no pictures.

They are written once, in fp16 as people own them, and loaded by ComfyUI's own loader.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any, NamedTuple, cast

import comfy.model_patcher
import comfy.sd
import torch
from comfy import model_detection, supported_models
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..personalization.comfyui.canvas import SIDES
from ..personalization.comfyui.family import FAMILIES

COMMON: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float16,
}
SD15 = COMMON | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
SD20 = SD15 | {"context_dim": 1024, "num_heads": -1, "num_head_channels": 64, "use_linear_in_transformer": True}
SDXL = COMMON | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
VAE: dict[str, Any] = {  # of all three
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
UNETS = {
    "SD 1.5": (supported_models.SD15, SD15),
    "SD 2": (supported_models.SD20, SD20),
    "SDXL": (supported_models.SDXL, SDXL),
}
DRAWN = 1_000_003  # numbers that are drawn and repeated: drawing billions of them takes minutes


class Loaded(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP


def load(family: str, folder: Path) -> Loaded:
    """MODEL and CLIP from the family's checkpoint in `folder`, written there if need be."""
    return opened(checkpoint(family, folder))


def opened(path: Path) -> Loaded:
    """MODEL and CLIP from a checkpoint, by ComfyUI's own loader."""
    found = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=True)
    return Loaded(cast(comfy.model_patcher.ModelPatcher, found[0]), cast(comfy.sd.CLIP, found[1]))


def ask_side(parser: ArgumentParser) -> None:
    parser.add_argument("--side", type=int, help="pixels; by default what the family was trained at, --quick the half")


def side_of(family: str, asked: int | None, quick: bool) -> int:
    """Pixels."""
    return asked or SIDES[family] // (2 if quick else 1)


def family_in(path: Path) -> str:
    """Told from the shapes in a checkpoint's header; ValueError where it is none of SD 1.5, SD 2 and SDXL."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
    config = model_detection.model_config_from_unet(shapes, model_detection.unet_prefix_from_state_dict(shapes))
    known = [family for family, (kind, _) in FAMILIES.items() if isinstance(config, kind)]
    if not known:
        raise ValueError(
            f"{path.name} holds no model that concepts act in; a checkpoint of {', '.join(FAMILIES)} is needed. "
            "Name one of these."
        )
    return known[0]


def checkpoint(family: str, folder: Path) -> Path:
    path = folder / f"random-{family.lower().replace(' ', '')}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file(state_of(family), part)
        part.replace(path)
    return path


@torch.no_grad()
def state_of(family: str) -> dict[str, Tensor]:
    """Random weights under the names of the family's published checkpoints."""
    kind, unet = UNETS[family]
    config = kind({**unet})
    network = config.get_model({}, "", device=torch.device("cpu")).diffusion_model
    target = config.clip_target({})
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float16}).cond_stage_model
    vae = AutoencoderKL(embed_dim=VAE["z_channels"], ddconfig=VAE)
    noise = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))
    for module in (network, clip, vae):
        for name, parameter in module.named_parameters():
            _fill(name, parameter, noise)
    named = config.process_unet_state_dict_for_saving(network.state_dict())
    named |= config.process_clip_state_dict_for_saving(clip.state_dict())
    named |= config.process_vae_state_dict_for_saving(vae.state_dict())
    return {name: tensor.half().contiguous() for name, tensor in named.items()}


def _fill(name: str, parameter: Tensor, noise: Tensor) -> None:
    """Normal, of a variance that keeps activations in bounds; norms are the identity."""
    if parameter.ndim < 2:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    flat = parameter.data.view(-1)
    values = noise.repeat(-(-flat.numel() // DRAWN))[: flat.numel()]
    flat.copy_(values * (0.02 if "embedding" in name else parameter[0].numel() ** -0.5))
