"""A training run that can stop at any point: its step, weights, optimiser, EMA and random state in one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY = 120.0  # seconds


@dataclass
class Run:
    """`ema` holds a moving average of every weight; it is what leaves the stage."""

    path: Path
    module: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    decay: float = 0.999
    step: int = 0

    def __post_init__(self) -> None:
        self.ema = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.saved = time.monotonic()
        if self.path.exists():
            self._load(torch.load(self.path, weights_only=True))

    def _load(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.ema, self.step = state["ema"], state["step"]

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "ema": self.ema,
            "step": self.step,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.path)
        self.saved = time.monotonic()

    def weights(self) -> dict[str, Tensor]:
        return {**self.module.state_dict(), **self.ema}

    def steps(self, total: int, rate: Callable[[int], float], batch_loss: Callable[[int], Tensor]) -> Iterator[float]:
        """Train up to step `total`; yields each step's loss as a number."""
        while self.step < total:
            for group in self.optimiser.param_groups:
                group["lr"] = rate(self.step)
            loss = batch_loss(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self._average()
            self.step += 1
            if time.monotonic() - self.saved > SAVE_EVERY or self.step == total:
                self.save()
            yield loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        kept, new = list(self.ema.values()), [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_(kept, new, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] - no public name


def warm_then_decay(peak: float, total: int, warm: int = 200, cooldown: float = 0.3) -> Callable[[int], float]:
    """Linear warm-up, a plateau, and a linear fall to a twentieth over the last `cooldown` of the run."""

    def rate(step: int) -> float:
        fall = (total - step) / (cooldown * total)
        return peak * min(1.0, (step + 1) / warm, max(fall, 0.05))

    return rate


def report(label: str, losses: Iterator[float], every: int = 50) -> None:
    """Print the running mean of the losses and the pace."""
    began, mean = time.monotonic(), 0.0
    for count, loss in enumerate(losses, 1):
        mean += loss
        if count % every == 0:
            pace = count / (time.monotonic() - began)
            print(f"{label}: {count} steps, loss {mean / every:.4f}, {pace:.2f} steps/s", flush=True)
            mean = 0.0
