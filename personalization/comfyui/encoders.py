"""The text encoders inside a CLIP: their keys, tokenizers, token embeddings and channels of the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import comfy.sd
import torch
from comfy.sd1_clip import SDClipModel
from torch import Tensor

from ..concept import channel_spans
from .host_types import Tokenizer


@dataclass(frozen=True)
class Encoder:
    """One text encoder: `attribute` names it and its tokenizer on the host's objects ("clip_l")."""

    attribute: str
    model: SDClipModel
    tokenizer: Tokenizer  # as ComfyUI loaded it, without placeholders

    @property
    def width(self) -> int:
        return self._embeddings.weight.shape[-1]

    @property
    def _embeddings(self) -> torch.nn.Embedding:
        return self.model.transformer.get_input_embeddings()

    def ids(self, words: str) -> list[int]:
        end = -1 if self.tokenizer.tokenizer_adds_end_token else None
        return self.tokenizer.tokenizer(words)["input_ids"][self.tokenizer.tokens_start : end]

    def class_embedding(self, words: str) -> Tensor:
        """The mean of the words' token embeddings, (width,), fp32: where a slot starts and what strength 0 means."""
        ids = torch.tensor(self.ids(words), device=self._embeddings.weight.device)
        return self._embeddings(ids, out_dtype=torch.float32).mean(0)


def encoders_of(clip: comfy.sd.CLIP) -> dict[str, Encoder]:
    """Key ("l", "g", "h") -> encoder, in the order of their channels; ValueError for a CLIP without CLIP encoders."""
    plain = getattr(clip, "plain_tokenizer", clip.tokenizer)
    found = {
        name.removeprefix("clip_"): Encoder(name, model, getattr(plain, name))
        for name, model in clip.cond_stage_model.named_children()
        if _is_clip(model, getattr(plain, name, None))
    }
    children = [name for name, _ in clip.cond_stage_model.named_children()]
    if not found or len(found) != len(children):
        raise ValueError(
            f"This CLIP is a {type(clip.cond_stage_model).__name__} with {_listed(children)}. Concepts need the CLIP "
            "text encoders of SD 1.5, SD 2 or SDXL. Connect the CLIP of such a checkpoint."
        )
    return found


def spans_of(clip: comfy.sd.CLIP) -> dict[str, slice]:
    """Key -> the encoder's channels of the context."""
    return channel_spans({key: encoder.width for key, encoder in encoders_of(clip).items()})


def _is_clip(model: torch.nn.Module, tokenizer: object) -> TypeGuard[SDClipModel]:
    return hasattr(tokenizer, "_try_get_embedding") and hasattr(getattr(model, "transformer", None), "text_model")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no encoder"
