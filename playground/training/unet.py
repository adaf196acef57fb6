"""Stage 5: the denoiser. v-prediction on SD's own schedule, one caption in ten left empty.

Large batches by Muon: on one core 256 pictures a step take in 1.4 times as many a second as 64, and what AdamW left
of the loss still falls (benchmarks/trials.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from comfy.clip_model import CLIPTextModel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file
from torch import Tensor

from ...personalization.comfyui.small_attention import small_attention
from ...personalization.muon import Muon
from ..model import initialise, new_unet
from .state import Run, report, warm_then_decay

BATCH = 256
RATE = 1.4e-3
DROPPED = 0.1
GAMMA = 5.0  # the signal-to-noise ratio from which on a step counts less: the decoder mends what is left there
SHARD_BYTES = 12 * 2**20
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)  # SD's scaled-linear betas


class Lesson(NamedTuple):
    """`latents` (n, c, h, w) fp16; `ids` (n, captions, 77); `empty` (77,) the ids of an empty prompt."""

    latents: Tensor
    ids: Tensor
    empty: Tensor
    text: CLIPTextModel


def train(lesson: Lesson, steps: int, cache: Path, start: dict[str, Tensor] | None) -> Run:
    """From `cache` where a run was stopped, else from `start`, else from noise."""
    generator = torch.Generator().manual_seed(13)
    latents, ids, empty, text = lesson
    unet = new_unet()
    initialise(unet, generator)
    unet.load_state_dict(start or unet.state_dict())
    run = Run(cache / "unet.pt", unet, Muon(unet.parameters(), RATE, precision=torch.bfloat16), generator, decay=0.998)

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(latents), (BATCH,), generator=generator)
        spoken = torch.randint(ids.shape[1], (BATCH,), generator=generator)
        asked = ids[picked, spoken].long()
        asked[torch.rand(BATCH, generator=generator) < DROPPED] = empty
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                context = text(input_tokens=asked)[0]
            return denoising_loss(unet, latents[picked].float(), context, generator)

    report("unet", run.steps(steps, warm_then_decay(RATE, steps, warm=100, cooldown=0.45), loss))
    return run


def denoising_loss(unet: UNetModel, x0: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
    """gamma / (snr + gamma) (v - v_hat)^2 with v = sqrt(a) eps - sqrt(1 - a) x0 (arXiv 2202.00512).

    Min-SNR (arXiv 2303.09556) weighs v with min(snr, gamma) / (snr + 1), which goes to zero where all is noise. On
    latents of 8 x 8 it is there that a prompt's objects and colours are decided.
    """
    t = torch.randint(1000, (len(x0),), generator=generator)
    a = ALPHAS[t].view(-1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=generator)
    noised = a.sqrt() * x0 + (1 - a).sqrt() * noise
    options = {"optimized_attention_override": small_attention}
    v_hat = unet(noised, t.float(), context, transformer_options=options).float()
    weight = GAMMA / (a / (1 - a) + GAMMA)
    return (weight * (a.sqrt() * noise - (1 - a).sqrt() * x0 - v_hat) ** 2).mean()


def save(state: dict[str, Tensor], weights: Path) -> None:
    """fp16 shards `unet.safetensors`, `unet-2.safetensors`, ... each well below what a repository likes."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, value in state.items():
        if sum(t.numel() * 2 for t in shards[-1].values()) + value.numel() * 2 > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = value.half().contiguous()
    for number, shard in enumerate(shards, 1):
        save_file(shard, weights / ("unet.safetensors" if number == 1 else f"unet-{number}.safetensors"))
