"""The studio: pictures as previews are made, and how encoders see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import comfy.sd
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.utils import ProgressBar
from torch import Tensor
from torch.nn import functional as F

from ..composition import Composition
from ..dataset import view
from ..pictures import Picture
from ..preview import Sitting, sampled
from ..soft_masks import soft_masks
from .canvas import Canvas, side_for
from .encoders import encoders_of
from .session import training_session

BATCH = 8
Encoding = dict[str, Tensor]


class Job(NamedTuple):
    text: str
    composition: Composition
    sitting: Sitting


def drawn(canvas: Canvas, jobs: Sequence[Job]) -> Tensor:
    """Pictures (n, h, w, 3) in 0..1 at the size of the family, in the way of Learn Concept's previews."""
    base, bar = canvas.base(), ProgressBar(len(jobs))
    side = side_for(base) // 8
    shape = (canvas.model.model.latent_format.latent_channels, side, side)
    latents = []
    with training_session(canvas.model, canvas.clip, name=canvas.name) as session:
        for job in jobs:
            latents.append(sampled(*session, job.composition, job.text, shape, job.sitting))
            bar.update(1)
    with torch.no_grad():
        return torch.cat([canvas.decode(one).float() for one in latents]).clamp(0, 1)


def photographed(canvas: Canvas, pictures: Sequence[Picture]) -> Tensor:
    """Real pictures (n, h, w, 3) after the VAE: what a perfect denoiser could give."""
    side = side_for(canvas.base())
    with torch.no_grad():
        seen = [canvas.decode(canvas.encode(view(one, (side, side)).pixels[None])).float() for one in pictures]
    return torch.cat(seen).clamp(0, 1) if seen else torch.zeros(0, side, side, 3)


def located(canvas: Canvas, pictures: Tensor, class_word: str) -> Tensor:
    """Soft masks (n, 1, h / 8, w / 8) of what the class word names in pictures (n, h, w, 3), by the frozen model."""
    with torch.no_grad():
        latents = torch.cat([canvas.encode(one[None]).float() for one in pictures])
    with training_session(canvas.model, canvas.clip, name=canvas.name) as session:
        return soft_masks(latents, *session, class_word)


def seen(vision: ClipVisionModel, pictures: Tensor) -> Tensor:
    """Unit vectors (n, d) of pictures (n, h, w, 3), fp32, on the CPU."""
    with torch.no_grad():
        parts = [vision.encode_image(part)["image_embeds"].float().cpu() for part in pictures.split(BATCH)]
    return F.normalize(torch.cat(parts), dim=-1)


def read(clip: comfy.sd.CLIP, texts: Sequence[str]) -> Tensor:
    """Unit vectors (n, d) of texts as the CLIP's own image encoder would find them."""
    with torch.no_grad():
        made = [cast(Encoding, clip.encode_from_tokens(clip.tokenize(text), return_dict=True)) for text in texts]
    return F.normalize(torch.cat([one["pooled_output"] for one in made]).float().cpu(), dim=-1)


def projects(clip: comfy.sd.CLIP) -> bool:
    """Whether the checkpoint brings the projection into the space that texts share with pictures.

    SD 1.5's leave it out, and the host puts the identity there.
    """
    encoder = list(encoders_of(clip).values())[-1]  # SDXL's pooled text is that of the last one
    weight = encoder.model.transformer.text_projection.weight
    return not torch.equal(weight.float(), torch.eye(*weight.shape).to(weight.device))
