"""Stage 2: the VAE. Principal components of patches first, which fixes the latents; then its decoder learns.

So the denoiser need not wait for the decoder, and the decoder can go on learning without a change for the denoiser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ...personalization.muon import Muon
from ..autoencoder import PATCH, PIXELS, PatchAutoencoder, write_linear
from ..model import CHANNELS
from .state import Run, report, warm_then_decay

BATCH, RATE = 32, 1e-3
FITTED = 4000  # pictures that the components are taken from
NOISE = 0.5  # up to this much on the latents, of unit variance: the decoder also mends what the denoiser leaves


class Components(NamedTuple):
    """Principal components of patches: z = weights (x - mean), rows scaled to standard deviation^1/2.

    Between plain components (1) and whitened ones (0): coarse ones stay larger, so that noise hides the fine ones
    first and the denoiser's loss minds the coarse ones most.
    """

    mean: Tensor  # (192,)
    weights: Tensor  # (CHANNELS, 192)


def components(images: Tensor) -> Components:
    """From uint8 pictures (n, h, w, 3)."""
    x = pixels(images[:FITTED])
    patches = F.pixel_unshuffle(x, PATCH).permute(0, 2, 3, 1).reshape(-1, PIXELS)
    mean = patches.mean(0)
    _, singular, directions = torch.linalg.svd(patches[::8] - mean, full_matrices=False)
    spread = singular[:CHANNELS] / len(patches[::8]) ** 0.5
    weights = directions[:CHANNELS] / spread.sqrt()[:, None]
    return Components(mean, weights / (weights @ (patches - mean).T).std())


def pixels(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in -1..1; contiguous: channels last is twice as slow on CPU."""
    return images.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


@torch.no_grad()
def encode(vae: PatchAutoencoder, images: Tensor) -> Tensor:
    """uint8 images -> latents (n, CHANNELS, h / 8, w / 8), fp16."""
    return torch.cat([vae.encode(pixels(chunk)).half() for chunk in images.split(512)])


def new(images: Tensor) -> PatchAutoencoder:
    """The linear autoencoder of these pictures, ready to learn the rest."""
    torch.manual_seed(11)
    vae = PatchAutoencoder(CHANNELS)
    write_linear(vae, *components(images))
    for part in (vae.project, vae.linear):
        part.requires_grad_(False)
    return vae


def train(images: Tensor, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(11)
    vae = new(images)
    save(vae, images[:512], weights)
    learning = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    run = Run(cache / "vae.pt", vae, Muon(learning, RATE, precision=torch.bfloat16), generator, decay=0.998)

    def loss(step: int) -> Tensor:
        x = pixels(images[torch.randint(len(images), (BATCH,), generator=generator)])
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(noised(vae.encode(x), generator))
        return reconstruction_loss(y.float(), x)

    report("vae", run.steps(steps, warm_then_decay(RATE, steps, cooldown=0.5), loss))
    vae.load_state_dict(run.weights())
    save(vae, images[:512], weights)


def noised(z: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's latents with noise of its own strength, 0..NOISE."""
    strength = NOISE * torch.rand(len(z), 1, 1, 1, generator=generator)
    return z + strength * torch.randn(z.shape, generator=generator)


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 on pixels and on their differences: edges."""
    return F.l1_loss(y, x) + 0.5 * sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))


def save(vae: PatchAutoencoder, images: Tensor, weights: Path) -> None:
    state = {name: value.detach().half().contiguous() for name, value in vae.state_dict().items()}
    factors = {"latent_rgb_factors": rgb_factors(vae, images)}
    save_file(state, weights / "vae.safetensors", {"playground": json.dumps(factors)})


def rgb_factors(vae: PatchAutoencoder, images: Tensor) -> list[list[float]]:
    """The linear map latents -> RGB that ComfyUI's fast previews use, (channels, 3), by least squares."""
    z = encode(vae, images).float().permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    rgb = F.avg_pool2d(pixels(images), PATCH).permute(0, 2, 3, 1).reshape(-1, 3)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(z, rgb).solution.tolist()]
