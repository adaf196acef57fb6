"""Pictures of the class made by the frozen model: what prior preservation (DPP, arXiv 2508.07341) holds on to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Generator, Tensor

from .composition import Composition, PlacedConcept
from .concept import Concept
from .denoiser import Context, Denoiser, PromptEncoder
from .objectives import prior_preservation
from .parts import ImageTokens
from .sampling import euler
from .whole_file import write_whole

STEPS, GUIDANCE, SEED = 20, 4.0, 11
PROMPT = "a photo of a {}"


@dataclass(frozen=True)
class Prior:
    """`pictures` (n, c, h, w): the class as the frozen model draws it."""

    denoiser: Denoiser
    encoder: PromptEncoder
    pictures: Tensor

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        encoder: PromptEncoder,
        class_word: str,
        count: int,
        shape: Sequence[int],
        keep: Path | None = None,
    ) -> Prior:
        """`count` pictures of `shape` (c, h, w), the same every time; taken from the folder `keep`, or left there."""
        frozen = encoder.encode(PROMPT.format(class_word))
        path = keep and keep / f"{_key(denoiser, frozen, count, shape)}.latents"
        pictures = _kept(path) if path else None
        if pictures is None:
            noise = torch.randn(count, *shape, generator=Generator().manual_seed(SEED)).to(denoiser.device)
            empty = encoder.encode("")
            # One at a time, however little memory there is.
            made = [euler(denoiser, frozen, empty, one, STEPS, GUIDANCE) for one in noise.split(1)]
            pictures = torch.cat(made).float().cpu()
            if path:
                _keep(path, pictures)
        return cls(denoiser, encoder, pictures)

    def loss(self, concept: Concept, samples: int, generator: Generator) -> Tensor:
        """L_DPP: l1 denoise(class picture, image tokens only) + l2 |frozen - prediction|^2, l1 = l2 = 1/2.

        Both predictions are of one text, so that the tokens alone make the difference: a class word of several tokens
        reads a little otherwise in the concept's slot than written out.
        """
        composition = (PlacedConcept(tokens_alone(concept)),)
        context = self._with_tokens(composition)
        chosen = torch.randint(len(self.pictures), (samples,), generator=generator)
        x0 = self.pictures[chosen].to(self.denoiser.device)
        sigma = self.denoiser.sigma_at(torch.rand(samples, generator=generator)).to(x0)
        noised = self.denoiser.add_noise(x0, sigma, torch.randn(x0.shape, generator=generator).to(x0))
        denoised = self.denoiser.predict(noised, sigma, [context] * samples, composition)
        with torch.no_grad():
            before = self.denoiser.predict(noised, sigma, [context] * samples)
        return prior_preservation(denoised, x0, before, self.denoiser.loss_weight(sigma)).mean()

    def _with_tokens(self, composition: Composition) -> Context:
        with torch.no_grad():
            return self.encoder.encode(PROMPT.format(f"<{composition[0].word}>"), composition)


def tokens_alone(concept: Concept) -> Concept:
    """The concept with its image tokens only: its word then reads as the class word does."""
    tokens = tuple(part for part in concept.parts if isinstance(part, ImageTokens))
    return replace(concept, info=replace(concept.info, phrase="[V]"), embeddings={}, parts=tokens)


def _key(denoiser: Denoiser, frozen: Context, count: int, shape: Sequence[int]) -> str:
    """Of the model, what it predicts, its schedule and the encoded prompt: another CLIP skip makes other pictures."""
    sigmas = denoiser.sigma_at(torch.linspace(0, 1, STEPS)).tolist()
    base = denoiser.base  # predictions of either kind share their sigmas
    decisive = (base.fingerprint, base.prediction, sigmas, count, tuple(shape), STEPS, GUIDANCE, SEED)
    prompt = frozen.tensor.float().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(repr(decisive).encode() + prompt).hexdigest()[:32]


def _kept(path: Path) -> Tensor | None:
    """What cannot be read is made again."""
    with suppress(OSError, SafetensorError, KeyError):
        return safetensors.load(path.read_bytes())["pictures"]
    return None


def _keep(path: Path, pictures: Tensor) -> None:
    with suppress(OSError):  # then they are made again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, safetensors.save({"pictures": pictures}))
