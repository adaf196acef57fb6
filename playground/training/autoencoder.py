"""Stage 2: the VAE, then its latents brought to zero mean and unit variance inside its own quant layers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from comfy.ldm.models.autoencoder import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from ..model import AUTOENCODER, CHANNELS, initialise
from .state import Run, report, warm_then_decay

BATCH = 64
CROP = 32  # px: four times the variety for the same work; the last tenth of the steps sees whole pictures
KL = 1e-5


def train(images: Tensor, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(11)
    vae = AutoencoderKL(ddconfig=dict(AUTOENCODER), embed_dim=CHANNELS)
    initialise(vae, generator)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    run = Run(cache / "vae.pt", vae, optimiser, generator, decay=0.998)

    def loss(step: int) -> Tensor:
        whole = step > 0.9 * steps
        picked = images[torch.randint(len(images), (BATCH // 4 if whole else BATCH,), generator=generator)]
        return reconstruction_loss(vae, pixels(picked if whole else cropped(picked, generator)), generator)

    report("vae", run.steps(steps, warm_then_decay(1.5e-3, steps), loss))
    vae.load_state_dict(run.weights())
    normalise(vae, images[:2048])
    save(vae, images[:512], weights / "vae.safetensors")


def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's own random window: (n, h, w, 3) -> (n, CROP, CROP, 3)."""
    top, left = torch.randint(images.shape[1] - CROP + 1, (2, len(images)), generator=generator)
    span = torch.arange(CROP)
    return images[
        torch.arange(len(images))[:, None, None], (top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None]
    ]


def pixels(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in -1..1, as the host feeds a VAE."""
    return images.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1  # channels last is twice as slow on CPU


def reconstruction_loss(vae: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    """L1 on pixels and on their differences (edges), and a faint KL that keeps the latents together."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, logvar = moments(vae, x)
        noise = torch.randn(mean.shape, generator=generator)
        y = decode(vae, mean + noise * (0.5 * logvar).exp())
    y, mean, logvar = y.float(), mean.float(), logvar.float()
    edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return F.l1_loss(y, x) + 0.5 * edges + KL * kl * CHANNELS


def moments(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
    return mean, logvar.clamp(-30, 20)


def decode(vae: AutoencoderKL, z: Tensor) -> Tensor:
    return vae.decoder(vae.post_quant_conv(z))


@torch.no_grad()
def normalise(vae: AutoencoderKL, images: Tensor) -> None:
    """z' = (z - m) / s: quant_conv makes z', post_quant_conv reads it; the pictures stay the same."""
    z = torch.cat([moments(vae, pixels(chunk))[0] for chunk in images.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:CHANNELS] /= std.view(-1, 1, 1, 1)
    quant.bias[:CHANNELS] = (quant.bias[:CHANNELS] - mean) / std
    quant.bias[CHANNELS:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std.view(1, -1, 1, 1)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """uint8 images -> latents (n, c, h / 8, w / 8), fp16, the mode of the posterior as the host takes it."""
    with torch.autocast("cpu", torch.bfloat16):
        means = [moments(vae, pixels(chunk))[0] for chunk in images.split(64)]
    return torch.cat(means).half()


def save(vae: AutoencoderKL, images: Tensor, path: Path) -> None:
    state = {name: value.half().contiguous() for name, value in vae.state_dict().items()}
    save_file(state, path, {"playground": json.dumps({"latent_rgb_factors": rgb_factors(vae, images)})})


def rgb_factors(vae: AutoencoderKL, images: Tensor) -> list[list[float]]:
    """The linear map latents -> RGB that ComfyUI's fast previews use, (channels, 3), by least squares."""
    z = encode(vae, images).float().permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    rgb = F.avg_pool2d(pixels(images), 8).permute(0, 2, 3, 1).reshape(-1, 3)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(z, rgb).solution.tolist()]
