"""The playground's MODEL, CLIP, VAE and CLIP_VISION, built from ComfyUI's own classes.

Nothing here is a look-alike: a UNetModel in a BaseModel and a ModelPatcher, an SD1-style CLIP with CLIP's own BPE
tokenizer, a patch autoencoder behind `comfy.sd.VAE`, and a CLIP vision tower, only smaller.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .autoencoder import PatchAutoencoder

WEIGHTS = Path(__file__).parent / "weights"
ENCODER = Path("encoders", "playground.safetensors")  # below the weights: a nested encoder, which comes along too
FAMILY = "Playground"
WIDTH = 128  # of the text context
CHANNELS = 24  # of the latents: at 64 px an ornament is one latent cell, and 4 to 8 numbers blur it

UNET = {
    "image_size": 8,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "model_channels": 96,
    "channel_mult": (1, 2),
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_heads": -1,
    "num_head_channels": 32,
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
}
TEXT = {
    "num_hidden_layers": 3,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
VISION_FILE = Path(__file__).with_name("vision.json")  # ComfyUI 0.18 reads it from a file only
VISION = json.loads(VISION_FILE.read_text(encoding="utf-8"))


class PlaygroundLatents(comfy.latent_formats.LatentFormat):
    """Latents of unit variance overall; `latent_rgb_factors` are fitted with the VAE and stand in its file."""

    scale_factor = 1.0
    latent_channels = CHANNELS
    latent_rgb_factors = [[float(channel == colour) for colour in range(3)] for channel in range(CHANNELS)]


class PlaygroundConfig(comfy.supported_models_base.BASE):
    """The playground as ComfyUI describes a family; `concept_loom_family` names it to comfyui/family.py."""

    unet_config = {"context_dim": WIDTH, "model_channels": UNET["model_channels"]}
    unet_extra_config: dict[str, object] = {}
    latent_format = PlaygroundLatents
    memory_usage_factor = 1.0
    concept_loom_family = FAMILY

    def inpaint_model(self) -> bool:
        return False

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


class PlaygroundTextModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, device: str = "cpu", dtype: torch.dtype | None = None, model_options: dict | None = None):
        super().__init__(
            device=device, dtype=dtype, textmodel_json_config=dict(TEXT), model_options=dict(model_options or {})
        )


class PlaygroundClipModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device: str = "cpu", dtype: torch.dtype | None = None, model_options: dict | None = None):
        super().__init__(
            device=device, dtype=dtype, model_options=model_options or {}, clip_model=cast(Any, PlaygroundTextModel)
        )


class PlaygroundTokenizer(comfy.sd1_clip.SD1Tokenizer):
    clip_l: comfy.sd1_clip.SDTokenizer  # the host sets it by name

    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict | None = None):
        tokenizer = functools.partial(comfy.sd1_clip.SDTokenizer, embedding_size=WIDTH)
        super().__init__(embedding_directory, tokenizer_data or {}, tokenizer=cast(Any, tokenizer))


class PlaygroundVAE(comfy.sd.VAE):
    """The host's own VAE, with its scaling, tiling and offloading, around our network."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        with _quietly():  # the host warns that it knows no such network, and leaves the rest of its set-up to us
            super().__init__(sd={})
        network = PatchAutoencoder(CHANNELS, operations=comfy.ops.manual_cast).eval()
        network.load_state_dict(state)
        self.first_stage_model = network
        self.device, self.vae_dtype = comfy.model_management.vae_device(), torch.float32
        self.output_device = comfy.model_management.intermediate_device()
        offload_device = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.CoreModelPatcher(network, self.device, offload_device)
        self.latent_channels = CHANNELS
        self.memory_used_encode = self.memory_used_decode = lambda shape, dtype: 2**26


@contextmanager
def _quietly() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class Playground(NamedTuple):
    """What `Load Playground Model` gives."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    clip_vision: ClipVisionModel


def new_unet() -> UNetModel:
    return UNetModel(**UNET, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Give ComfyUI's layers, which come uninitialised, torch's usual starts; output projections start at zero."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
        elif "embedding" in name and "patch" not in name:
            parameter.data.normal_(0.0, 0.02, generator=generator)
        else:
            bound = parameter[0].numel() ** -0.5
            parameter.data.uniform_(-bound, bound, generator=generator)
    for name, parameter in module.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight")) or name == "out.2.weight":
            parameter.data.zero_()


def load_model(folder: str | Path = WEIGHTS, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The denoiser in a patcher; `cached_patcher_init` lets the host make deep clones from disk."""
    config = PlaygroundConfig({**UNET, "dtype": torch.float32})
    fitted = read_metadata(Path(folder) / "vae.safetensors").get("latent_rgb_factors")
    config.latent_format.latent_rgb_factors = fitted or PlaygroundLatents.latent_rgb_factors
    model = comfy.model_base.BaseModel(config, model_type=config.model_type({}), device="cpu")
    model.diffusion_model.load_state_dict(read_weights(folder, "unet"))
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    load_device = comfy.model_management.get_torch_device()
    patcher = patcher_class(model, load_device=load_device, offload_device=comfy.model_management.unet_offload_device())
    patcher.cached_patcher_init = (load_model, (str(folder),))
    return patcher


def load_clip(folder: str | Path = WEIGHTS) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(PlaygroundTokenizer, PlaygroundClipModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    clip.cond_stage_model.clip_l.load_state_dict(unpacked(read_weights(folder, "text")), strict=False)
    return clip


def load_vae(folder: str | Path = WEIGHTS) -> comfy.sd.VAE:
    return PlaygroundVAE(read_weights(folder, "vae"))


def load_clip_vision(folder: str | Path = WEIGHTS) -> ClipVisionModel:
    vision = ClipVisionModel(VISION_FILE)
    vision.load_sd(read_weights(folder, "vision"))
    return vision


def load(folder: str | Path = WEIGHTS) -> Playground:
    return Playground(load_model(folder), load_clip(folder), load_vae(folder), load_clip_vision(folder))


def read_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """All shards `name.safetensors`, `name-2.safetensors`, ... in fp32; FileNotFoundError names what is missing."""
    shards = sorted(Path(folder).glob(f"{name}.safetensors")) + sorted(Path(folder).glob(f"{name}-*.safetensors"))
    if not shards:
        raise FileNotFoundError(
            f"The playground's weights '{name}.safetensors' are not in {Path(folder).name}/. They come with the pack; "
            f"install it again, or train them with `python dev.py train`."
        )
    tensors = {key: value for shard in shards for key, value in load_file(shard).items()}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def read_metadata(path: Path) -> dict:
    if not path.exists():
        return {}
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("playground", "{}"))


EMBEDDING = "transformer.text_model.embeddings.token_embedding.weight"


def packed(state: dict[str, Tensor], tokens: list[int]) -> dict[str, Tensor]:
    """The text encoder's weights with only the token rows that its world uses; the rest is noise from a seed."""
    ids = torch.tensor(sorted(tokens))
    return {**state, EMBEDDING: state[EMBEDDING][ids], "tokens": ids}


def unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    table = unseen_tokens()
    table[state["tokens"].long()] = state[EMBEDDING]
    return {**{key: value for key, value in state.items() if key != "tokens"}, EMBEDDING: table}


def unseen_tokens() -> Tensor:
    """Embeddings (49408, width) of words that the playground never met: small noise, the same for everybody."""
    return torch.randn(49408, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.02
