"""The playground is made of ComfyUI's own classes, and core code works on it."""

from pathlib import Path

import comfy.clip_vision
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import numpy as np
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras.nodes_model_merging import ModelMergeSimple
from concept_loom.personalization.comfyui.backbone import Backbone
from concept_loom.personalization.methods.layerwise import chosen_sites
from concept_loom.personalization.recipe import recipe_for
from concept_loom.playground.autoencoder import PatchAutoencoder, write_linear
from concept_loom.playground.model import CHANNELS, WEIGHTS, Playground, load, read_weights, unpacked
from concept_loom.playground.world import draw_scene, full_caption, render

import nodes

from .tiny import DEEP_CLONES


@pytest.fixture(scope="module")
def playground() -> Playground:
    return load()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    rng = np.random.default_rng(3)
    images = [render(draw_scene(rng, style="photo", split="bench")).image for _ in range(16)]
    return torch.from_numpy(np.stack(images)).float() / 255


def test_every_part_is_of_the_hosts_own_classes(playground: Playground) -> None:
    assert isinstance(playground.model, comfy.model_patcher.ModelPatcher)
    assert isinstance(playground.model.model, comfy.model_base.BaseModel)
    assert isinstance(playground.model.model.diffusion_model, UNetModel)
    assert isinstance(playground.clip, comfy.sd.CLIP)
    assert isinstance(playground.vae, comfy.sd.VAE)
    assert isinstance(playground.clip_vision, comfy.clip_vision.ClipVisionModel)


def test_subjects_learned_by_quick_sit_in_the_decoder(playground: Playground) -> None:
    base = Backbone(playground.model).base
    decoder = {shape.site for shape in base.sites if shape.site.block == "output"}
    assert set(chosen_sites(base, recipe_for("quick", base.family, "subject").sites)) == decoder
    assert decoder < {shape.site for shape in base.sites}


def test_the_vae_gives_pictures_back(playground: Playground, pictures: torch.Tensor) -> None:
    latents = playground.vae.encode(pictures)
    again = playground.vae.decode(latents)
    assert latents.shape == (16, CHANNELS, 8, 8)
    assert -10 * torch.log10((again - pictures).pow(2).mean()) > 22


def test_tiles_give_the_same_latents(playground: Playground, pictures: torch.Tensor) -> None:
    with torch.inference_mode():
        whole = playground.vae.encode(pictures[:1])
        tiled = playground.vae.encode_tiled(pictures[:1], tile_x=64, tile_y=64, overlap=8)
    assert torch.allclose(whole, tiled.to(whole), atol=1e-4)


def encoded(playground: Playground, pictures: torch.Tensor) -> dict:
    return nodes.VAEEncode().encode(playground.vae, pictures[:1])[0]


LATENTS = {  # the host's nodes, and what each leaves of a picture's height and width
    "Empty Latent Image": (lambda p, x: nodes.EmptyLatentImage().generate(64, 64)[0], (64, 64)),
    "VAE Encode": (encoded, (64, 64)),
    "VAE Encode (Tiled)": (lambda p, x: nodes.VAEEncodeTiled().encode(p.vae, x[:1], 64, 8)[0], (64, 64)),
    "VAE Encode (for Inpainting)": (
        lambda p, x: nodes.VAEEncodeForInpaint().encode(p.vae, x[:1], torch.ones(1, 64, 64), 6)[0],
        (64, 64),
    ),
    "Set Latent Noise Mask": (
        lambda p, x: nodes.SetLatentNoiseMask().set_mask(encoded(p, x), torch.ones(1, 64, 64))[0],
        (64, 64),
    ),
    "Upscale Latent By": (lambda p, x: nodes.LatentUpscaleBy().upscale(encoded(p, x), "bilinear", 1.5)[0], (96, 96)),
    "Rotate Latent": (lambda p, x: nodes.LatentRotate().rotate(encoded(p, x), "90 degrees")[0], (64, 64)),
    "Crop Latent": (lambda p, x: nodes.LatentCrop().crop(encoded(p, x), 64, 32, 0, 0)[0], (32, 64)),
}


@pytest.mark.parametrize(("latent", "size"), LATENTS.values(), ids=LATENTS)
def test_core_nodes_sample_and_decode_whatever_core_nodes_make_of_latents(latent, size, playground, pictures) -> None:
    with torch.inference_mode():
        (first,) = nodes.CLIPSetLastLayer().set_last_layer(playground.clip, -1)
        (model,) = ModelMergeSimple().merge(playground.model, playground.model, 0.5)
        red, nothing = (nodes.CLIPTextEncode().encode(first, text)[0] for text in ("a photo of a red mug", ""))
        given = latent(playground, pictures)
        (drawn,) = nodes.KSampler().sample(model, 1, 4, 4.0, "euler", "normal", red, nothing, given, denoise=0.6)
        (whole,) = nodes.VAEDecode().decode(playground.vae, drawn)
        (tiled,) = nodes.VAEDecodeTiled().decode(playground.vae, drawn, 64, 16)
    assert whole.shape == tiled.shape == (1, *size, 3) and whole.isfinite().all() and whole.std() > 0.05
    assert (whole - tiled).abs().mean() < 0.02


@pytest.mark.skipif(not DEEP_CLONES, reason="this ComfyUI knows no deep clones")
def test_a_deep_clone_is_reloaded_and_draws_the_same(playground: Playground) -> None:
    clone = playground.model.clone(disable_dynamic=True, force_deepcopy=True)
    assert clone.model is not playground.model.model
    ours, theirs = playground.model.model.state_dict(), clone.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_picture_of_its_own_caption_beats_others(playground: Playground, pictures: torch.Tensor) -> None:
    """CLIP and CLIP_VISION were trained together: captions find their pictures."""
    rng = np.random.default_rng(4)
    scenes = [draw_scene(rng, style="photo", second="none", split="bench") for _ in range(24)]
    images = torch.from_numpy(np.stack([render(scene).image for scene in scenes])).float() / 255
    seen = playground.clip_vision.encode_image(images)["image_embeds"]
    clip = playground.clip
    tokens = [clip.tokenize(full_caption(scene)) for scene in scenes]
    read = torch.cat([clip.encode_from_tokens(one, return_pooled=True)[1] for one in tokens])
    likeness = torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(read, dim=1).T
    assert (likeness.argmax(1) == torch.arange(24)).float().mean() > 0.5


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unet\.safetensors"):
        read_weights(tmp_path, "unet")


def test_no_weight_file_is_over_16_mb() -> None:
    assert all(file.stat().st_size < 16 * 2**20 for file in WEIGHTS.glob("*.safetensors"))


def test_words_that_the_world_never_used_get_the_same_noise_everywhere() -> None:
    state = read_weights(WEIGHTS, "text")
    table = [value for name, value in unpacked(dict(state)).items() if name.endswith("token_embedding.weight")][0]
    unseen = sorted(set(range(49408)) - set(state["tokens"].tolist()))[:100]
    assert float(table[unseen].std()) == pytest.approx(0.02, rel=0.1)


def test_the_autoencoder_starts_as_the_exact_projection() -> None:
    torch.manual_seed(0)
    weights, mean = torch.linalg.qr(torch.randn(192, 192))[0][:24], torch.randn(192)
    network = PatchAutoencoder(24)
    write_linear(network, mean, weights)
    x = torch.randn(2, 3, 16, 16)
    once = network.decode(network.encode(x))
    assert torch.allclose(network.decode(network.encode(once)), once, atol=1e-4)
