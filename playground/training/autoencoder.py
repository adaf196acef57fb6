"""Stage 2: the VAE. Its encoder is written down, not trained: the principal components of 8 x 8 patches.

ComfyUI's TAESD is convolutions and ReLUs, so a linear map fits in exactly: three strided convolutions unfold the
patch, the last one projects it, and every signed number travels as a pair of non-negative ones. So the latents are
known at once, and the decoder, which is trained, can go on learning without a change for the denoiser.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model import CHANNELS
from .state import Run, report, warm_then_decay

BATCH = 24
CROP = 4  # latent cells: four times the variety for the same work
OFFSETS = ((0, 0), (0, 1), (1, 0), (1, 1))
SCALE = 0.5  # the host squashes what its decoder reads by tanh(x / 3): keep it small


class Components(NamedTuple):
    """Principal components of patches: z = weights (x - mean), rows scaled to standard deviation^1/2.

    Between plain components (1) and whitened ones (0): coarse ones stay larger, so that noise hides the fine ones
    first and the denoiser's loss minds the coarse ones most.
    """

    mean: Tensor  # (192,)
    weights: Tensor  # (CHANNELS, 192)


def components(images: Tensor) -> Components:
    """From uint8 pictures (n, h, w, 3)."""
    patches = unfolded(in_unit(images)).permute(0, 2, 3, 1).reshape(-1, 192)
    mean = patches.mean(0)
    _, singular, directions = torch.linalg.svd(patches[::8] - mean, full_matrices=False)
    spread = singular[:CHANNELS] / len(patches[::8]) ** 0.5
    weights = directions[:CHANNELS] / spread.sqrt()[:, None]
    return Components(mean, weights / (weights @ (patches - mean).T).std())


def in_unit(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in 0..1; contiguous: channels last is twice as slow on CPU."""
    return images.permute(0, 3, 1, 2).float().contiguous() / 255


def unfolded(x: Tensor) -> Tensor:
    """(n, 3, h, w) -> (n, 192, h / 8, w / 8), each halving as `place_unfolding` does it."""
    for _ in range(3):
        x = torch.cat([x[:, :, i::2, j::2] for i, j in OFFSETS], 1)
    return x


@torch.no_grad()
def write_encoder(vae: TAESD, fitted: Components) -> None:
    """Encoder(x) = weights (unfolded(x) - mean), exactly. Residual blocks are identities on non-negative numbers."""
    encoder = vae.taesd_encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for channel in range(3):
        encoder[0].weight[channel, channel, 1, 1] = 1
    _place_unfolding(encoder[2].weight, 3)
    _place_unfolding(encoder[6].weight, 12)
    last = encoder[10].weight
    for number, row in enumerate(fitted.weights):
        for offset, (i, j) in enumerate(OFFSETS):
            last[2 * number, :48, 1 + i, 1 + j] = row[48 * offset : 48 * (offset + 1)]
    last[1 : 2 * CHANNELS : 2] = -last[0 : 2 * CHANNELS : 2]
    for number in range(CHANNELS):
        encoder[14].weight[number, 2 * number, 1, 1] = 1
        encoder[14].weight[number, 2 * number + 1, 1, 1] = -1
    encoder[14].bias.copy_(-fitted.weights @ fitted.mean)
    encoder[14].weight *= SCALE  # the host divides by vae_scale
    encoder[14].bias *= SCALE
    vae.vae_scale.fill_(SCALE)
    vae.vae_shift.zero_()


def _place_unfolding(weight: Tensor, channels: int) -> None:
    """A strided convolution that lays the four pixels of every 2 x 2 side by side in channels."""
    for offset, (i, j) in enumerate(OFFSETS):
        for channel in range(channels):
            weight[offset * channels + channel, channel, 1 + i, 1 + j] = 1


def initialise_decoder(decoder: nn.Module, generator: torch.Generator) -> None:
    """He's start; residual branches begin at zero (Fixup), so that the depth costs no time at first."""
    for name, parameter in decoder.named_parameters():
        if parameter.ndim < 2 or name.endswith(".conv.4.weight"):
            parameter.data.zero_()
        else:
            parameter.data.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)


def encode(fitted: Components, images: Tensor) -> Tensor:
    """uint8 images -> latents (n, CHANNELS, h / 8, w / 8) fp16: what the host's encoder gives."""
    chunks = (unfolded(in_unit(chunk)) - fitted.mean.view(-1, 1, 1) for chunk in images.split(1024))
    return torch.cat([torch.einsum("kp,nphw->nkhw", fitted.weights, chunk).half() for chunk in chunks])


def train(images: Tensor, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(11)
    fitted = components(images[:4000])
    vae = TAESD(latent_channels=CHANNELS)
    write_encoder(vae, fitted)
    initialise_decoder(vae.taesd_decoder, generator)
    save(vae, fitted, images[:512], weights)
    latents = encode(fitted, images)
    optimiser = torch.optim.AdamW(vae.taesd_decoder.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run(cache / "vae.pt", vae.taesd_decoder, optimiser, generator, decay=0.998)

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(images), (BATCH,), generator=generator)
        top, left = torch.randint(images.shape[1] // 8 - CROP + 1, (2, BATCH), generator=generator)
        z, x = cropped(latents[picked], images[picked], top, left)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.taesd_decoder(z * SCALE)
        return reconstruction_loss(y.float(), x)

    report("vae", run.steps(steps, warm_then_decay(1e-3, steps), loss))
    vae.taesd_decoder.load_state_dict(run.weights())
    save(vae, fitted, images[:512], weights)


def cropped(latents: Tensor, images: Tensor, top: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture's own window of CROP x CROP cells: latents (n, c, CROP, CROP) and pixels (n, 3, 8 CROP, 8 CROP)."""
    corners = list(zip(latents, images, top.tolist(), left.tolist(), strict=True))
    z = torch.stack([z[:, i : i + CROP, j : j + CROP] for z, _, i, j in corners]).float()
    x = torch.stack([x[8 * i : 8 * (i + CROP), 8 * j : 8 * (j + CROP)] for _, x, i, j in corners])
    return z, in_unit(x)


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 on pixels and on their differences: edges."""
    return F.l1_loss(y, x) + 0.5 * sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))


def save(vae: TAESD, fitted: Components, images: Tensor, weights: Path) -> None:
    state = {name: value.detach().half().contiguous() for name, value in vae.state_dict().items()}
    factors = {"latent_rgb_factors": rgb_factors(fitted, images)}
    save_file(state, weights / "vae.safetensors", {"playground": json.dumps(factors)})


def rgb_factors(fitted: Components, images: Tensor) -> list[list[float]]:
    """The linear map latents -> RGB that ComfyUI's fast previews use, (channels, 3), by least squares."""
    z = encode(fitted, images).float().permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    rgb = F.avg_pool2d(in_unit(images) * 2 - 1, 8).permute(0, 2, 3, 1).reshape(-1, 3)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(z, rgb).solution.tolist()]
