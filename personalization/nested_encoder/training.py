"""Training a nested encoder by reconstruction (Nested Attention, arXiv 2501.01407): the denoiser's own loss of x_0,

    L = |D(x_0 + sigma n; text with s*, T_s(E)) - x_0|^2

with E of another picture of the same subject where there is one, else of a crop of the same. UNet, CLIP and the image
encoder are frozen, the word's embedding is its class word's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import spread, training_texts
from ..composition import PlacedConcept
from ..concept import Concept, ConceptInfo
from ..denoiser import Denoiser, PromptEncoder
from ..learned import Step
from ..network_training import NetworkRun
from ..parts import NestedValues
from .network import EncoderShape, NestedEncoder, untrained
from .recipe import EncoderRecipe
from .spoken import WORD, spoken
from .subjects import Views


@dataclass(frozen=True)
class EncoderTask:
    """`interrupts` are exceptions that mean "stop and keep what there is"."""

    denoiser: Denoiser
    encoder: PromptEncoder
    views: Views
    recipe: EncoderRecipe
    seed: int = 0
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


class Trained(NamedTuple):
    network: NestedEncoder
    losses: tuple[float, ...]
    finished: bool


class Draw(NamedTuple):
    """One batch, b entries each: what is drawn, which picture and which of its crops the encoder sees."""

    target: Tensor
    shown: Tensor
    crop: Tensor
    percent: Tensor
    noise: Tensor
    texts: tuple[str, ...]


def train(task: EncoderTask, on_step: Callable[[Step], None] = lambda step: None) -> Trained:
    """The same task gives the same tensors. An interrupt before the first step is raised, later ones keep the state.

    Raises ArithmeticError on NaN or infinity, ValueError where the nested values act nowhere.
    """
    with torch.inference_mode(False), torch.enable_grad():
        run = EncoderRun(task)
        finished = run.to_the_end(task.interrupts, on_step)
        return Trained(run.network, tuple(run.losses), finished)


class EncoderRun(NetworkRun[NestedEncoder]):
    def __init__(self, task: EncoderTask) -> None:
        self.task, self.recipe, views = task, task.recipe, task.views
        base = task.denoiser.base
        sites = tuple(shape.site.key for shape in base.sites)
        sizes = (self.recipe.width, self.recipe.depth, self.recipe.tokens, self.recipe.rank)
        shape = EncoderShape(views.tokens.shape[-1], base.context_width, *sizes, sites)
        super().__init__(task.denoiser, untrained(shape, task.seed), self.recipe, task.seed)
        words = dict.fromkeys(views.class_words)
        self.spoken = {word: spoken(task.encoder, base, word) for word in words}
        self.info: ConceptInfo = next(iter(self.spoken.values())).concept.info
        rows = torch.stack([self.spoken[word].row for word in views.class_words])  # (subjects, context)
        self.rows = rows.to(task.denoiser.device)
        own = [views.class_words[number] for number in views.subjects.tolist()]
        self.texts = [
            training_texts((caption,), self.recipe.templates, word, WORD)[0]
            for caption, word in zip(views.captions, own, strict=True)
        ]
        with torch.no_grad():
            said = {(word, text) for word, texts in zip(own, self.texts, strict=True) for text in texts}
            self.contexts = {
                (word, text): task.encoder.encode(text, (PlacedConcept(self.spoken[word].concept),))
                for word, text in sorted(said)
            }

    def reconstruct(self) -> Tensor:
        draw = self.draw()
        noised = self.noise(self.task.views.latents[draw.target], draw.percent, draw.noise)
        banks = self.network(*self.given(draw))  # (b, sites, m, context)
        sites = (shape.site for shape in self.denoiser.base.sites)
        own = NestedValues(dict(zip(sites, banks.unbind(1), strict=True)))
        composition = (PlacedConcept(Concept(self.info, {}, (own,))),)
        whose = self.task.views.subjects[draw.target].tolist()
        words = [self.task.views.class_words[number] for number in whose]
        contexts = [self.contexts[key] for key in zip(words, draw.texts, strict=True)]
        return self.loss(
            self.denoiser.predict(noised.noised, noised.sigma, contexts, composition), noised, draw.texts[0]
        )

    def given(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """What the encoder is shown and the class words' rows: (b, n, vision), (b, context)."""
        views, device = self.task.views, self.denoiser.device
        return views.tokens[draw.shown, draw.crop].to(device).float(), self.rows[views.subjects[draw.target].to(device)]

    def draw(self) -> Draw:
        """Another picture of the subject where there is one; of a lone picture any crop but the whole."""
        views, size, generator = self.task.views, self.recipe.batch_size, self.generator
        target = torch.randint(len(views.subjects), (size,), generator=generator)
        same = (views.subjects[target][:, None] == views.subjects[None]).float()  # (b, N)
        others = same.clone()
        others[torch.arange(size), target] = 0.0
        alone = others.sum(1) == 0
        shown = torch.multinomial(torch.where(alone[:, None], same, others), 1, generator=generator)[:, 0]
        count = views.tokens.shape[1]
        crop = torch.randint(count, (size,), generator=generator)
        crop = torch.where(alone & (crop == 0) & (count > 1), count - 1, crop)
        picks = torch.rand(size, generator=generator).tolist()
        texts = [self.texts[number] for number in target.tolist()]
        return Draw(
            target,
            shown,
            crop,
            spread(size, self.recipe.sigma_range, generator),
            torch.randn(size, *views.latents.shape[1:], generator=generator),
            tuple(own[int(pick * len(own))] for own, pick in zip(texts, picks, strict=True)),
        )
