"""ComfyUI's CLIP as the prompt encoder that training sees: differentiable in the concepts' embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..composition import Composition, PlacedConcept
from ..denoiser import Context
from .concept_clip import ENCODED, weave_clip
from .encoders import encoders_of


class ClipPromptEncoder:
    """A `PromptEncoder` over a CLIP; keeps what it encoded as long as no embedding is being trained."""

    def __init__(self, clip: comfy.sd.CLIP) -> None:
        self._clip = clip
        self._kept: dict[tuple[object, ...], tuple[list[Tensor], Context]] = {}

    @property
    def patcher(self) -> ModelPatcher:
        return self._clip.patcher

    def weights(self) -> Iterator[Tensor]:
        yield from self._clip.cond_stage_model.parameters()
        yield from self._clip.cond_stage_model.buffers()

    def class_embedding(self, word: str) -> dict[str, Tensor]:
        return {key: encoder.class_embedding(word)[None] for key, encoder in encoders_of(self._clip).items()}

    def encode(self, text: str, composition: Composition = ()) -> Context:
        embeddings = [tensor for placed in composition for tensor in placed.concept.embeddings.values()]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in embeddings):
            return self._encoded(text, composition)
        key = (text, *(_seen_by_encoder(placed) for placed in composition))
        if key not in self._kept:
            with torch.no_grad():
                context = self._encoded(text, composition)
            if any(tensor.requires_grad for tensor in embeddings):
                return context  # trained in place: the next step has other values under the same name
            self._kept[key] = (embeddings, context)  # they keep the key's ids alive; all else of a concept may go
        return self._kept[key][1]

    def _encoded(self, text: str, composition: Composition) -> Context:
        clip = weave_clip(self._clip, composition)
        # It is loaded. The host would load it once more, and for that push out the model or take the room of a step.
        clip.load_model = lambda tokens=None: clip.patcher
        out = clip.encode_from_tokens(clip.tokenize(text), return_dict=True)
        return Context(out["cond"], ENCODED[out["cond"]].slots, out["pooled_output"])


def _seen_by_encoder(placed: PlacedConcept) -> tuple[object, ...]:
    info = placed.concept.info
    tensors = tuple(id(tensor) for tensor in placed.concept.embeddings.values())
    return (placed.word, placed.strength, info.phrase, info.class_word, *tensors)
