"""Difficulty-aware importance sampling (DRC, arXiv 2504.17349): what is reconstructed badly is asked more often.

The paper's formula is unknown. Ours, for things i with running losses l_i:

    p_i = softmax(l_i / (T mean l)),    l_i <- l_i + (1 - memory) (loss - l_i)

in units of the mean, so that T means the same at every loss; what was never asked counts as the mean.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

MEMORY = 0.95


class Importance:
    def __init__(self, things: int, temperature: float) -> None:
        self.losses = torch.full((things,), torch.nan, dtype=torch.float64)
        self.temperature = temperature

    def probabilities(self) -> Tensor:
        """(things,), summing to 1."""
        known = self.losses[~self.losses.isnan()]
        if not len(known):
            return torch.full_like(self.losses, 1 / len(self.losses))
        mean = known.mean()
        losses = torch.where(self.losses.isnan(), mean, self.losses)
        return (losses / (self.temperature * mean.clamp_min(1e-12))).softmax(0)

    def drawn(self, count: int, generator: Generator) -> Tensor:
        """`count` things, (count,)."""
        return torch.multinomial(self.probabilities(), count, replacement=True, generator=generator)

    def drawn_among(self, allowed: Tensor, generator: Generator) -> Tensor:
        """One thing per row of `allowed` (count, things), which holds at least one True per row."""
        return torch.multinomial(self.probabilities() * allowed, 1, generator=generator)[:, 0]

    def note(self, things: Tensor, losses: Tensor) -> None:
        for thing, loss in zip(things.tolist(), losses.tolist(), strict=True):
            before = float(self.losses[thing])
            self.losses[thing] = loss if before != before else before + (1 - MEMORY) * (loss - before)
