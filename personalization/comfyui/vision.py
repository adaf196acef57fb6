"""ComfyUI's CLIP_VISION as the frozen image encoder of the towers."""

from __future__ import annotations

import torch
from comfy.clip_vision import ClipVisionModel
from torch import Tensor

SMALLEST, LARGEST = 64, 512  # pixels
PROBE_SIDE, PROBE_SEED = 224, 23


class Vision:
    """Penultimate hidden states of pictures, the class token included where the encoder has one."""

    def __init__(self, clip_vision: ClipVisionModel) -> None:
        self.model = clip_vision

    @property
    def side(self) -> int:
        """Pixels that are enough for it, divisible by 8."""
        return min(max(self.model.image_size, SMALLEST), LARGEST) // 8 * 8

    @property
    def name(self) -> str:
        """For people: the host does not keep the file's name."""
        config = self.model.config
        layers, width = config.get("num_hidden_layers", "?"), config.get("hidden_size", "?")
        return f"{self.model.model_type}, {layers} layers, {width} wide"

    @torch.no_grad()
    def tokens(self, pictures: Tensor) -> Tensor:
        """(n, h, w, 3) in 0..1 -> (n, tokens, width), fp32, on the CPU; ValueError where they are not finite."""
        encoded = [self.model.encode_image(one[None])["penultimate_hidden_states"] for one in pictures]
        tokens = torch.cat(encoded).to("cpu", torch.float32, copy=True)
        if not bool(tokens.isfinite().all()):
            raise ValueError(
                "The CLIP_VISION turned a picture into NaN or infinity; finite numbers are needed. "
                "Start ComfyUI with --fp32-text-enc, or load another CLIP_VISION."
            )
        return tokens

    def probe(self) -> Tensor:
        """What it makes of one fixed picture, the mean over its tokens, (width,)."""
        coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(PROBE_SEED))
        picture = torch.nn.functional.interpolate(coarse, (PROBE_SIDE, PROBE_SIDE), mode="bicubic").clamp(0, 1)
        return self.tokens(picture.movedim(1, -1))[0].mean(0)
