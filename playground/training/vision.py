"""Stage 4: the vision encoder learns to see what the finished text encoder reads (CLIP's own loss, one side locked).

Only the two projections and the vision encoder move (LiT, Zhai et al. 2022), so the text contexts stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.clip_model import CLIPTextModel, CLIPVisionModelProjection
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model import VISION, initialise
from . import text as reading
from .pictures import Pictures
from .state import Run, report, warm_then_decay

BATCH = 192
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


class Pair(nn.Module):
    """The vision encoder, the text encoder's projection and CLIP's temperature."""

    def __init__(self, text: CLIPTextModel) -> None:
        super().__init__()
        self.vision = CLIPVisionModelProjection(dict(VISION), torch.float32, "cpu", comfy.ops.disable_weight_init)
        self.projection = text.text_projection
        self.scale = nn.Parameter(torch.tensor(2.66))

    def loss(self, images: Tensor, read: Tensor) -> Tensor:
        """Symmetric InfoNCE (Radford et al. 2021, figure 3) over images (n, 3, h, w) and end tokens (n, width)."""
        seen = F.normalize(look(self.vision, images).float(), dim=-1)
        told = F.normalize(self.projection(read).float(), dim=-1)
        logits = self.scale.clamp(max=4.6).exp() * seen @ told.T
        target = torch.arange(len(read))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def look(vision: CLIPVisionModelProjection, images: Tensor) -> Tensor:
    """The host's own forward (n, 3, h, w) -> (n, projection), attention written out."""
    model = vision.vision_model
    x = reading.through(model.encoder.layers, model.pre_layrnorm(model.embeddings(images)), None)
    return vision.visual_projection(model.post_layernorm(x[:, 0]))


def train(data: Pictures, ids: Tensor, text: CLIPTextModel, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(14)
    text.requires_grad_(False)
    pair = Pair(text)
    initialise(pair, generator)
    pair.scale.data.fill_(2.66)
    pair.projection.requires_grad_(True)
    optimiser = torch.optim.AdamW(pair.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-2, fused=True)
    run = Run(cache / "vision.pt", pair, optimiser, generator, decay=0.995)

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(ids), (BATCH,), generator=generator)
        spoken = torch.randint(ids.shape[1], (BATCH,), generator=generator)
        asked = ids[picked, spoken, : reading.LONGEST].long()
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                read = reading.ends(reading.read_captions(text, asked), asked)
            return pair.loss(prepared(data.images[picked]), read)

    report("vision", run.steps(steps, warm_then_decay(1e-3, steps), loss))
    pair.load_state_dict(run.weights())
    state = {name: value.half().contiguous() for name, value in pair.vision.state_dict().items()}
    reading.save(text, sorted(set(ids.unique().tolist())), weights)
    save_file(state, weights / "vision.safetensors")


def prepared(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> what ComfyUI's clip_preprocess makes of a picture of the encoder's own size."""
    return (images.permute(0, 3, 1, 2).float().contiguous() / 255 - MEAN) / STD
