"""All that changes while learning: what the loop moves on, and what a snapshot holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .attractor import KIND
from .learned import Held
from .muon import Muon
from .recipe import MUON, Recipe, Stage


class Kept(NamedTuple):
    """A copy of the concept's tensors that is safe to return; `loss` is NaN where no held-out picture judged it."""

    step: int
    loss: float
    tensors: dict[str, Tensor]


@dataclass
class LearningState:
    """The state between two steps. `random` is the generator's state: a step that is broken off has drawn nothing."""

    parameters: dict[str, Tensor]
    random: Tensor
    kept: Kept
    optimizer: torch.optim.Optimizer
    began: list[int] = field(default_factory=lambda: [0])  # the step before each stage so far
    baseline: Tensor | None = None  # held-out losses at the start
    losses: list[float] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def stage(self) -> int:
        return len(self.began) - 1

    def settled(self, patience: int) -> bool:
        """Whether the stage's last `patience` held-out checks brought nothing better; never with patience 0."""
        since = max(self.kept.step, self.began[-1])
        return 0 < patience <= sum(one.step > since for one in self.held)

    @property
    def checked(self) -> bool:
        return bool(self.held) and self.held[-1].step == self.step

    def generator(self) -> Generator:
        generator = Generator()
        generator.set_state(self.random)
        return generator


def starting_state(start: Mapping[str, Tensor], recipe: Recipe, seed: int, device: torch.device) -> LearningState:
    """From the tensors that learning starts with: the concept's, and those that only learning has."""
    parameters = {name: tensor.detach().to(device, torch.float32, copy=True) for name, tensor in start.items()}
    random = Generator().manual_seed(seed).get_state()
    optimizer = fresh_optimizer(parameters, recipe.stages[0], recipe)
    return LearningState(parameters, random, Kept(0, math.nan, copies(parameters)), optimizer)


def fresh_optimizer(parameters: Mapping[str, Tensor], stage: Stage, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over exactly the tensors that the stage trains: Muon is for stages of low-rank layers."""
    for name, tensor in parameters.items():
        tensor.requires_grad_(stage.includes(name) or name.startswith(KIND))
        tensor.grad = None
    trained = [tensor for tensor in parameters.values() if tensor.requires_grad]
    if not trained:
        raise ValueError(
            f"The stage trains {', '.join(stage.trains)}, and the concept has {', '.join(parameters)}. "
            "Start the concept with the method that the recipe belongs to."
        )
    if recipe.optimizer == MUON and stage.layered:
        return Muon(trained, stage.learning_rate, momentum=0.9, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(trained, stage.learning_rate, weight_decay=recipe.weight_decay)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
