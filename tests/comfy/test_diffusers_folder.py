"""A diffusers folder as what is learned on: SD 1.5 as it is published, with random weights, by ComfyUI's own loader."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tools import host

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def write(folder):
    """An SD 1.5 pipeline in fp16, as the published one lies in its folder."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed; its folders cannot be written")
    import transformers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(cross_attention_dim=768)
        vae = diffusers.AutoencoderKL(**VAE)
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
    for name, part in {"unet": unet, "vae": vae}.items():
        filled(part.half().to_empty(device="cpu")).save_pretrained(folder / name)
    named = filled(text.half().to_empty(device="cpu")).named_parameters()
    (folder / "text_encoder").mkdir()  # transformers 5 saves an encoder that was never published without the prefix
    weights = {f"text_model.{name.removeprefix('text_model.')}": parameter.data for name, parameter in named}
    save_file(weights, folder / "text_encoder" / "model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    diffusers.DDIMScheduler(prediction_type="epsilon").save_pretrained(folder / "scheduler")


def filled(module):
    noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for parameter in module.parameters():  # repeated: drawing billions of numbers takes minutes
        flat = parameter.data.view(-1)
        flat.copy_(noise.repeat(-(-flat.numel() // len(noise)))[: flat.numel()])
    return module


@pytest.mark.slow
def test_a_diffusers_folder_can_be_learned_on(tmp_path):
    write(tmp_path / "mine")
    canvas = host.canvas(tmp_path / "mine")
    base = canvas.base()
    assert (base.family, base.prediction, base.name, len(base.sites)) == ("SD 1.5", "eps", "mine", 16)
    with torch.inference_mode():
        assert canvas.encode(torch.rand(1, 64, 64, 3)).shape == (1, 4, 8, 8)
        assert canvas.clip.encode_from_tokens(canvas.clip.tokenize("a mug")).shape == (1, 77, 768)
