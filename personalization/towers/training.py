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

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..batch import spread, training_texts
from ..composition import PlacedConcept
from ..concept import Base, Concept, ConceptInfo
from ..denoiser import Context, Denoiser, PromptEncoder
from ..learned import Step
from ..objectives import denoising_loss, min_snr
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
        try:
            while len(run.losses) < task.recipe.steps:
                run.step()
                on_step(Step(len(run.losses), task.recipe.steps, run.losses[-1], time.perf_counter() - run.began))
        except task.interrupts:
            if not run.losses:
                raise
        return run.trained()


class TowersRun:
    def __init__(self, task: TowersTask) -> None:
        self.task, self.recipe, self.began = task, task.recipe, time.perf_counter()
        base, triplets = task.denoiser.base, task.triplets
        shape = TowersShape(triplets.tokens.shape[-1], base.context_width, self.recipe.width, self.recipe.tokens)
        self.towers = untrained(shape, task.seed).to(task.denoiser.device)
        self.optimizer = torch.optim.AdamW(
            self.towers.parameters(), self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        self.generator = Generator().manual_seed(task.seed)
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
        self.losses: list[float] = []

    def step(self) -> None:
        """Nothing changes before the loss and every gradient have been found to be finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self.pace()
        draw = self.draw()
        losses = self.reconstruction(draw)  # (b,)
        self.optimizer.zero_grad()
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.towers.parameters(), self.recipe.largest_gradient)
        if not bool((losses.detach().sum() + norm).isfinite()):
            raise ArithmeticError(
                f"Training met NaN or infinity at step {len(self.losses) + 1} of {self.recipe.steps}. "
                "Finite numbers are needed. Lower the learning rate, or start ComfyUI with --bf16-unet or --fp32-unet."
            )
        self.optimizer.step()
        losses = losses.detach().cpu()
        self.pairs.note(draw.pair[draw.alone == 0], losses[draw.alone == 0])
        self.pictures.note(draw.style[draw.alone != 2], losses[draw.alone != 2])
        self.losses.append(float(losses.mean()))

    def pace(self) -> float:
        """Share of the learning rate: linear warm-up, then half a cosine."""
        done, warm = len(self.losses), max(1, round(self.recipe.warmup * self.recipe.steps))
        if done < warm:
            return (done + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, self.recipe.steps - warm)))

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
        denoiser = self.task.denoiser
        x0 = self.task.triplets.latents[draw.anchor].to(denoiser.device)
        sigma = denoiser.sigma_at(draw.percent).to(x0)
        noised = denoiser.add_noise(x0, sigma, draw.noise.to(x0))
        own = LatentInstruction.at((shape.site for shape in denoiser.base.sites), self.instruction(draw))
        composition = (PlacedConcept(Concept(self.info, {}, (own,))),)
        denoised = denoiser.predict(noised, sigma, [self.contexts[text] for text in draw.texts], composition)
        if not denoised.requires_grad:
            raise ValueError(
                f"The instruction acts at no site of the model in '{draw.texts[0]}'; one at least is needed to train. "
                "Check that MODEL and CLIP belong together."
            )
        return denoising_loss(denoised, x0, min_snr(denoiser.loss_weight(sigma), self.recipe.min_snr))

    def instruction(self, draw: Draw) -> Tensor:
        """X of each sample's pair, (b, M, context)."""
        triplets, device = self.task.triplets, self.task.denoiser.device
        e_a, e_s = triplets.tokens[draw.anchor].to(device), triplets.tokens[draw.style].to(device)
        e_m = triplets.copies[draw.anchor, draw.copy].to(device)
        style_a, semantic_a = ((draw.pair // 2 == 0).to(device), (draw.pair % 2 == 0).to(device))
        style = self.towers.style(*_either(style_a, e_a, e_s)).features
        semantics = self.towers.semantics(*_either(semantic_a, e_a, e_m)).features
        hidden = torch.stack([draw.alone == 2, draw.alone == 1], 1).to(device).float() * HIDDEN  # (b, 2)
        lengths = torch.tensor([style.shape[1], semantics.shape[1]], device=device)
        return self.towers.fusion(style, semantics, hidden.repeat_interleave(lengths, 1))

    def trained(self) -> Trained:
        finished = len(self.losses) == self.recipe.steps
        return Trained(
            self.towers.cpu().requires_grad_(False),
            tuple(self.losses),
            tuple(self.pairs.probabilities().tolist()),
            finished,
        )


def _either(asks: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(q, kv) per sample: `one` asks `other` where `asks` (b,), else the reverse."""
    choice = asks[:, None, None]
    return torch.where(choice, one, other), torch.where(choice, other, one)


def _info(base: Base, recipe: TowersRecipe) -> ConceptInfo:
    """The word of the training prompts; it reads as the class word, and the instruction alone is learned."""
    return ConceptInfo(WORD, WORD, "[V]", recipe.class_word, "both", base, "towers")
