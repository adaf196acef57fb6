"""Training the towers by reconstruction (DRC, arXiv 2504.17349, stage 1), as the denoiser's own loss of the anchor x_a:

    F_sty^a = StyleTower(q=E_a, kv=E_s)    F_sty^s = StyleTower(q=E_s, kv=E_a)
    F_sem^a = SemTower(q=E_a, kv=E_m)      F_sem^m = SemTower(q=E_m, kv=E_a)
    X = Fusion(F_sty, F_sem) for the pairs {sty^a, sty^s} x {sem^a, sem^m},    L = |D(x_a + sigma n; text, X) - x_a|^2

Which pair a sample takes, and which picture of the same style, is drawn by importance (importance.py). What a tower
should not tell is right in only some of the pairs, what it should tell in all of them: that keeps the two apart. Ours:
some samples see the style alone or the semantics alone, so that each can be used without the other. There the anchor
only asks (sty^a, sem^a), for as E_kv it would give away what the hidden half should have told. Gradients are cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import spread, training_texts
from ..composition import PlacedConcept
from ..concept import Base, Concept, ConceptInfo
from ..denoiser import Context, Denoiser, PromptEncoder
from ..learned import Step
from ..network_training import NetworkRun
from ..parts import LatentInstruction
from .importance import Importance
from .networks import Towers, TowersShape, untrained
from .recipe import TowersRecipe
from .triplets import Triplets

WORD = "towers"
PAIRS = ("sty^a sem^a", "sty^a sem^m", "sty^s sem^a", "sty^s sem^m")
ASKING = 0  # the pair in which the anchor only asks
HIDDEN = -3.0e4  # on a logit: never seen, and finite in fp16 too


@dataclass(frozen=True)
class TowersTask:
    """`interrupts` are exceptions that mean "stop and keep what there is"."""

    denoiser: Denoiser
    encoder: PromptEncoder
    triplets: Triplets
    recipe: TowersRecipe
    seed: int = 0
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)


class Trained(NamedTuple):
    """`pairs` is how probably each of PAIRS was drawn in the end."""

    towers: Towers
    losses: tuple[float, ...]
    pairs: tuple[float, ...]
    finished: bool


class Draw(NamedTuple):
    """One batch, b entries each: numbers of pictures, copies and pairs; `alone` 1 hides semantics, 2 hides style."""

    anchor: Tensor
    style: Tensor
    copy: Tensor
    pair: Tensor
    alone: Tensor
    percent: Tensor
    noise: Tensor
    texts: tuple[str, ...]


def train(task: TowersTask, on_step: Callable[[Step], None] = lambda step: None) -> Trained:
    """The same task gives the same tensors. An interrupt before the first step is raised, later ones keep the state.

    Raises ArithmeticError on NaN or infinity, ValueError where the instruction acts nowhere.
    """
    with torch.inference_mode(False), torch.enable_grad():
        run = TowersRun(task)
        finished = run.to_the_end(task.interrupts, on_step)
        return Trained(run.network, tuple(run.losses), tuple(run.pairs.probabilities().tolist()), finished)


class TowersRun(NetworkRun[Towers]):
    def __init__(self, task: TowersTask) -> None:
        self.task, self.recipe = task, task.recipe
        base, triplets = task.denoiser.base, task.triplets
        shape = TowersShape(triplets.tokens.shape[-1], base.context_width, self.recipe.width, self.recipe.tokens)
        super().__init__(task.denoiser, untrained(shape, task.seed), self.recipe, task.seed)
        self.pairs = Importance(len(PAIRS), self.recipe.temperature)
        self.pictures = Importance(len(triplets.users), self.recipe.temperature)
        self.info = _info(base, self.recipe)
        stub = (PlacedConcept(Concept(self.info, {})),)
        words = (self.recipe.class_word, WORD)
        self.texts = training_texts(triplets.captions, self.recipe.templates, *words)
        with torch.no_grad():
            self.contexts: dict[str, Context] = {
                text: task.encoder.encode(text, stub) for texts in self.texts for text in texts
            }

    def reconstruct(self) -> Tensor:
        self.drawn = self.draw()
        return self.reconstruction(self.drawn)

    def noted(self, losses: Tensor) -> None:
        alone = self.drawn.alone
        self.pairs.note(self.drawn.pair[alone == 0], losses[alone == 0])
        self.pictures.note(self.drawn.style[alone != 2], losses[alone != 2])

    def draw(self) -> Draw:
        triplets, size, generator = self.task.triplets, self.recipe.batch_size, self.generator
        anchor = torch.randint(len(triplets.users), (size,), generator=generator)
        same = triplets.users[anchor][:, None] == triplets.users[None]  # (b, N)
        same[torch.arange(size), anchor] = False
        alone = self.alone(size)
        picks = torch.rand(size, generator=generator).tolist()
        texts = [self.texts[number] for number in anchor.tolist()]
        return Draw(
            anchor,
            self.pictures.drawn_among(same, generator),
            torch.randint(triplets.copies.shape[1], (size,), generator=generator),
            torch.where(alone == 0, self.pairs.drawn(size, generator), ASKING),
            alone,
            spread(size, self.recipe.sigma_range, generator),
            torch.randn(size, *triplets.latents.shape[1:], generator=generator),
            tuple(own[int(pick * len(own))] for own, pick in zip(texts, picks, strict=True)),
        )

    def alone(self, size: int) -> Tensor:
        """Which samples hide the semantics (1) or the style (2), (size,)."""
        chance = torch.rand(size, generator=self.generator)
        return (chance < self.recipe.alone).long() + 2 * (chance > 1 - self.recipe.alone).long()

    def reconstruction(self, draw: Draw) -> Tensor:
        """The model's own loss of the anchors, (b,)."""
        noised = self.noise(self.task.triplets.latents[draw.anchor], draw.percent, draw.noise)
        own = LatentInstruction.at((shape.site for shape in self.denoiser.base.sites), self.instruction(draw))
        composition = (PlacedConcept(Concept(self.info, {}, (own,))),)
        contexts = [self.contexts[text] for text in draw.texts]
        denoised = self.denoiser.predict(noised.noised, noised.sigma, contexts, composition)
        return self.loss(denoised, noised, draw.texts[0])

    def instruction(self, draw: Draw) -> Tensor:
        """X of each sample's pair, (b, M, context)."""
        triplets, device = self.task.triplets, self.denoiser.device
        e_a, e_s = triplets.tokens[draw.anchor].to(device), triplets.tokens[draw.style].to(device)
        e_m = triplets.copies[draw.anchor, draw.copy].to(device)
        style_a, semantic_a = ((draw.pair // 2 == 0).to(device), (draw.pair % 2 == 0).to(device))
        style = self.network.style(*_either(style_a, e_a, e_s)).features
        semantics = self.network.semantics(*_either(semantic_a, e_a, e_m)).features
        hidden = torch.stack([draw.alone == 2, draw.alone == 1], 1).to(device).float() * HIDDEN  # (b, 2)
        lengths = torch.tensor([style.shape[1], semantics.shape[1]], device=device)
        return self.network.fusion(style, semantics, hidden.repeat_interleave(lengths, 1))


def _either(asks: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(q, kv) per sample: `one` asks `other` where `asks` (b,), else the reverse."""
    choice = asks[:, None, None]
    return torch.where(choice, one, other), torch.where(choice, other, one)


def _info(base: Base, recipe: TowersRecipe) -> ConceptInfo:
    """The word of the training prompts; it reads as the class word, and the instruction alone is learned."""
    return ConceptInfo(WORD, WORD, "[V]", recipe.class_word, "both", base, "towers")
