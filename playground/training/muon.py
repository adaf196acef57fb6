"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal. Half the steps of AdamW on the judge.

Updates have the size of AdamW's (Liu et al. 2025, "Muon is scalable", section 2.2), so that one rate serves both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SIZE = 0.2  # root mean square of an update over the learning rate


class Muon(torch.optim.Optimizer):
    """Weights with two or more axes by Muon, all others by AdamW."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.02):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._matrix if weight.ndim > 1 else self._vector
                weight.sub_(update(weight, weight.grad, group["momentum"]), alpha=group["lr"])

    def _matrix(self, weight: Tensor, grad: Tensor, momentum: float) -> Tensor:
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(grad, 1 - momentum)
        rows = orthogonal(grad.lerp(mean, momentum).flatten(1))
        return SIZE * max(rows.shape) ** 0.5 * rows.view_as(weight)

    def _vector(self, weight: Tensor, grad: Tensor, momentum: float) -> Tensor:
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        square = self.state[weight].setdefault("square", torch.zeros_like(weight))
        mean.lerp_(grad, 1 - momentum)
        square.lerp_(grad**2, 0.02)
        return mean / (square.sqrt() + 1e-8)


def orthogonal(x: Tensor) -> Tensor:
    """Nearly U V^T of x = U S V^T, by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    y = (x if len(x) <= x.shape[1] else x.T).bfloat16()
    y = y / (y.norm() + 1e-7)
    for _ in range(5):
        square = y @ y.T
        y = a * y + (b * square + c * square @ square) @ y
    return (y if len(x) <= x.shape[1] else y.T).float()
