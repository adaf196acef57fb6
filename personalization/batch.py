"""Training batches: which pictures, which captions, how much noise; all of it from one generator."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .composition import Composition, spelled
from .denoiser import Context, PromptEncoder
from .latents import TrainingLatents
from .recipe import Recipe


class Batch(NamedTuple):
    """`x0`, `noise` (b, c, h, w), `mask` (b, 1, h, w), `percent` of sampling (b,), all on the CPU; b texts."""

    x0: Tensor
    mask: Tensor
    noise: Tensor
    percent: Tensor
    texts: tuple[str, ...]


def draw(latents: TrainingLatents, recipe: Recipe, texts: tuple[tuple[str, ...], ...], generator: Generator) -> Batch:
    """A batch of one bucket, in which no picture comes twice before all of it have come once.

    `texts[i]` are those of latent i.
    """
    bucket, size = _one_of(latents.buckets, generator), recipe.batch_size
    rounds = [torch.randperm(len(bucket), generator=generator) for _ in range(math.ceil(size / len(bucket)))]
    chosen = bucket[torch.cat(rounds)[:size]].tolist()
    percent = spread(size, recipe.sigma_range, generator)
    x0, mask = (torch.stack([every[i] for i in chosen]) for every in (latents.train, latents.masks))
    noise = torch.randn(x0.shape, generator=generator)
    picks = torch.rand(size, generator=generator).tolist()
    said = tuple(_picked(texts[i], pick) for i, pick in zip(chosen, picks, strict=True))
    return Batch(x0, mask, noise, percent, said)


def _one_of(buckets: tuple[Tensor, ...], generator: Generator) -> Tensor:
    """As often as it has latents, so that each of them is learned from alike."""
    if len(buckets) == 1:
        return buckets[0]
    sizes = torch.tensor([len(one) for one in buckets], dtype=torch.float)
    return buckets[int(torch.multinomial(sizes, 1, generator=generator))]


def spread(size: int, limits: tuple[float, float], generator: Generator) -> Tensor:
    """One shared offset, even distances: a batch covers the schedule (VDM, arXiv 2107.00630, appendix I.1)."""
    share = (torch.rand(1, generator=generator) + torch.arange(size)) / size  # (b,) in 0..1
    return limits[0] + (limits[1] - limits[0]) * share


def _picked(texts: tuple[str, ...], pick: float) -> str:
    return texts[min(int(pick * len(texts)), len(texts) - 1)]


def training_texts(
    captions: Iterable[str], templates: Iterable[str], class_word: str, word: str
) -> list[tuple[str, ...]]:
    """What each latent is called in training: its caption where it has one, else any of the templates."""
    plain = tuple(template.replace("{}", f"<{word}>") for template in templates)
    return [(captioned(caption, class_word, word),) if caption else plain for caption in captions]


def captioned(caption: str, class_word: str, word: str) -> str:
    """`caption` with `<word>` at `{}`, or where it says `<word>` or the class word, or else in front of it."""
    if f"<{word}>" in spelled(caption):
        return caption
    if "{}" in caption:
        return caption.replace("{}", f"<{word}>")
    named, times = re.subn(
        rf"\b{re.escape(class_word)}\b", lambda found: f"<{word}>", caption, count=1, flags=re.IGNORECASE
    )
    return named if times and class_word else f"<{word}>, {caption}"


class Prompts:
    """Encodes training texts: once where the embedding is frozen, each time otherwise."""

    def __init__(self, encoder: PromptEncoder, composition: Composition, frozen: bool) -> None:
        self.encoder, self.composition, self.frozen = encoder, composition, frozen
        self.known: dict[str, Context] = {}

    def contexts(self, texts: Iterable[str]) -> list[Context]:
        """One context per text; equal texts share one."""
        texts = tuple(texts)
        encoded = {text: self._encoded(text) for text in dict.fromkeys(texts)}
        return [encoded[text] for text in texts]

    def _encoded(self, text: str) -> Context:
        if not self.frozen:
            return self.encoder.encode(text, self.composition)
        if text not in self.known:
            with torch.no_grad():
                self.known[text] = self.encoder.encode(text, self.composition)
        return self.known[text]
