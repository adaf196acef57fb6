"""Training a small network over an image encoder's tokens, whatever it is to tell: settings and the loop."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Generic, NamedTuple

import torch
from torch import Generator, Tensor

from .denoiser import Denoiser
from .learned import Step
from .objectives import denoising_loss, min_snr
from .recipe import Range
from .vision_layers import Network

STEPS = Range(0, 0, 100_000, 1)  # 0: the recipe's
BATCH_SIZE = Range(0, 0, 64, 1)  # 0: the recipe's
LEARNING_RATE = Range(0, 0, 0.1, 1e-5)  # 0: the recipe's


@dataclass(frozen=True)
class NetworkRecipe:
    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 2e-4
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 1e-2
    largest_gradient: float = 1.0  # norm to which gradients are cut
    min_snr: float = 5.0
    sigma_range: tuple[float, float] = (0.001, 0.999)  # percents of sampling

    def as_header(self) -> Mapping[str, object]:
        """JSON-ready, for the network's file."""
        return asdict(self)


class Noised(NamedTuple):
    """Latents (b, c, h, w) at sigma (b,), and what they were."""

    x0: Tensor
    noised: Tensor
    sigma: Tensor


class NetworkRun(ABC, Generic[Network]):
    """One training, a step at a time; the same seed gives the same tensors."""

    def __init__(self, denoiser: Denoiser, network: Network, recipe: NetworkRecipe, seed: int) -> None:
        self.denoiser, self.plan, self.began = denoiser, recipe, time.perf_counter()
        self.network: Network = network.to(denoiser.device)
        self.optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.generator = Generator().manual_seed(seed)
        self.losses: list[float] = []

    @abstractmethod
    def reconstruct(self) -> Tensor:
        """The losses of a batch, (b,), with gradients."""

    def noted(self, losses: Tensor) -> None:
        """What is remembered of a sound batch's losses (b,), on the CPU."""

    def to_the_end(self, interrupts: tuple[type[BaseException], ...], on_step: Callable[[Step], None]) -> bool:
        """Whether all steps were taken. An interrupt before the first is raised, later ones keep the state.

        Raises ArithmeticError on NaN or infinity.
        """
        try:
            while len(self.losses) < self.plan.steps:
                self.step()
                on_step(Step(len(self.losses), self.plan.steps, self.losses[-1], time.perf_counter() - self.began))
        except interrupts:
            if not self.losses:
                raise
        self.network.cpu().requires_grad_(False)
        return len(self.losses) == self.plan.steps

    def step(self) -> None:
        """Nothing changes before the loss and every gradient have been found to be finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self.pace()
        losses = self.reconstruct()
        self.optimizer.zero_grad()
        losses.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.largest_gradient)
        if not bool((losses.detach().sum() + norm).isfinite()):
            raise ArithmeticError(
                f"Training met NaN or infinity at step {len(self.losses) + 1} of {self.plan.steps}. "
                "Finite numbers are needed. Lower the learning rate, or start ComfyUI with --bf16-unet or --fp32-unet."
            )
        self.optimizer.step()
        losses = losses.detach().cpu()
        self.noted(losses)
        self.losses.append(float(losses.mean()))

    def pace(self) -> float:
        """Share of the learning rate: linear warm-up, then half a cosine."""
        done, warm = len(self.losses), max(1, round(self.plan.warmup * self.plan.steps))
        if done < warm:
            return (done + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, self.plan.steps - warm)))

    def noise(self, latents: Tensor, percent: Tensor, noise: Tensor) -> Noised:
        """`latents` with as much noise as there is at `percent` (b,) of sampling, on the denoiser's device."""
        x0 = latents.to(self.denoiser.device)
        sigma = self.denoiser.sigma_at(percent).to(x0)
        return Noised(x0, self.denoiser.add_noise(x0, sigma, noise.to(x0)), sigma)

    def loss(self, denoised: Tensor, noised: Noised, text: str) -> Tensor:
        """The model's own loss of each sample (b,); ValueError where the network had no say in `denoised`."""
        if not denoised.requires_grad:
            raise ValueError(
                f"What is learned acts at no site of the model in '{text}'; one at least is needed to train. "
                "Check that MODEL and CLIP belong together."
            )
        weight = min_snr(self.denoiser.loss_weight(noised.sigma), self.plan.min_snr)
        return denoising_loss(denoised, noised.x0, weight)
