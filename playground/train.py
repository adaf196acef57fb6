"""`python dev.py train`: the playground's weights from nothing but seeds. Stop it anywhere; it goes on from there.

Finished stages are kept as they are; the denoiser goes on from the weights that are there. Delete them to begin anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from comfy.clip_model import CLIPTextModel
from torch import Tensor

from .judge import NAMES
from .model import ENCODER, TEXT, load, read_weights, unpacked
from .training import autoencoder, judge, nested_encoder, text, unet, vision
from .training.pictures import Pictures, pictures, told_scenes

PICTURES, VAE_STEPS, TEXT_STEPS, VISION_STEPS, UNET_STEPS = 120_000, 22_500, 2500, 700, 13_500


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="pictures, optimiser states; not in the repository")
    parser.add_argument("--weights", type=Path, required=True, help="where the finished weights go")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--text-steps", type=int, default=TEXT_STEPS)
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--unet-steps", type=int, default=UNET_STEPS)
    wanted = parser.parse_args(argv)
    wanted.weights.mkdir(parents=True, exist_ok=True)
    data = pictures(wanted.cache, wanted.pictures)
    if not (wanted.weights / "vae.safetensors").exists():
        autoencoder.train(data.images, wanted.vae_steps, wanted.cache, wanted.weights)
    ids = text.token_ids(data.captions)
    if not (wanted.weights / "text.safetensors").exists():
        known = text.facts(scene for number in range(data.shards) for scene, _ in told_scenes(number))
        text.train(known, ids, wanted.text_steps, wanted.cache, wanted.weights)
    if not (wanted.weights / "vision.safetensors").exists():
        vision.train(data, ids, text_encoder(wanted.weights), wanted.vision_steps, wanted.cache, wanted.weights)
    train_unet(data, ids, wanted)
    missing = tuple(name for name in NAMES if not (wanted.weights / f"judge-{name}.safetensors").exists())
    if missing:
        judge.train(wanted.cache, wanted.weights, missing)
    encoder = wanted.weights / ENCODER
    if not encoder.exists():
        nested_encoder.train_encoder(load(wanted.weights), encoder)


def train_unet(data: Pictures, ids: Tensor, wanted: argparse.Namespace) -> None:
    latents = autoencoder.encode(autoencoder.new(data.images), data.images)
    empty = text.token_ids([[""]])[0, 0].long()
    lesson = unet.Lesson(latents, ids, empty, text_encoder(wanted.weights))
    known = read_weights(wanted.weights, "unet") if (wanted.weights / "unet.safetensors").exists() else None
    run = unet.train(lesson, wanted.unet_steps, wanted.cache, known)
    unet.save(run.weights(), wanted.weights)


def text_encoder(weights: Path) -> CLIPTextModel:
    import comfy.ops

    encoder = CLIPTextModel(dict(TEXT), torch.float32, "cpu", comfy.ops.disable_weight_init)
    state = unpacked(read_weights(weights, "text"))
    encoder.load_state_dict({name.removeprefix("transformer."): value for name, value in state.items()})
    return encoder.requires_grad_(False).eval()
