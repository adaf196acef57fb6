"""The painter: what the model draws when it is asked for the concept, while it is learned and in the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import comfy.model_management as host
import torch
from torch import Tensor

from ..concept import Concept
from ..learned import Learned
from ..preview import PREDICTIONS, preview, probes
from .canvas import Canvas
from .memory import ran_out
from .session import Session

ROUGH = (
    "While learning, memory was too short to load the VAE as well: the pictures on the way were rough, as "
    "ComfyUI's own previews are."
)
PATIENCE = 1.0  # seconds that a last picture may take after a click on Cancel


class Painter:
    """Pictures are (1, h, w, 3) in 0..1. A click on Cancel may cost the last one, never what was learned."""

    def __init__(self, canvas: Canvas, session: Session, template: str, shape: Sequence[int]) -> None:
        self.canvas, self.session, self.template, self.shape = canvas, session, template, shape
        self.last: Tensor | None = None
        self.spared = ""  # what people read where the VAE had no room on the way

    def on_the_way(self, concept: Concept) -> Tensor:
        """The probes side by side, (1, h, probes * w, 3); rough where the VAE has no room."""
        roomy = self.canvas.has_room_to_decode(torch.Size((1, *self.shape)))
        self.spared = "" if roomy else ROUGH
        seen = self._decoded if roomy else self.canvas.glimpse
        pictures = []
        for latents in probes(*self.session, concept, self.template, self.shape):
            pictures.append(seen(latents))
            self.last = pictures[0]
        return torch.cat(pictures, 2)

    def sketched(self, learned: Learned) -> Tensor | None:
        """Latents of what was learned, made with the training session; None when there is no time or room for it."""
        if not learned.finished and PREDICTIONS * learned.prediction_seconds > PATIENCE:
            return None
        try:
            return preview(*self.session, learned.concept, self.template, self.shape)
        except host.InterruptProcessingException:
            return None
        except Exception as error:
            if not ran_out(error):
                raise
        host.soft_empty_cache()
        return None

    def painted(self, latents: Tensor | None) -> Tensor | None:
        """After the session, when the VAE may take the memory; without latents the last one on the way."""
        with suppress(host.InterruptProcessingException):
            return self.last if latents is None else self._decoded(latents)
        return self.last

    def _decoded(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.canvas.decode(latents).float()
