"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, so that every direction moves alike.

Updates have the size of AdamW's (Liu et al. 2025, arXiv 2502.16982, section 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SIZE = 0.2  # root mean square of an update over the learning rate


class Moving(NamedTuple):
    weight: Tensor
    grad: Tensor


class Muon(torch.optim.Optimizer):
    """Weights with two or more axes by Muon, all others by AdamW."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """`precision`: of the orthogonal matrices. bfloat16 is faster where they are large."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Moving]] = {}
            for weight in group["params"]:
                if weight.grad is None:  # as torch's own: an attractor whose picture this batch left out
                    continue
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                alike.setdefault(weight.shape, []).append(Moving(weight, weight.grad))
            for shape, moving in alike.items():
                updates = (self._matrices if len(shape) > 1 else self._vectors)(moving, group["momentum"])
                for (weight, _), update in zip(moving, updates, strict=True):
                    weight.sub_(update, alpha=group["lr"])

    def _matrices(self, moving: Sequence[Moving], momentum: float) -> list[Tensor]:
        """Of weights of one shape, together: low-rank layers are many and small."""
        moved = torch.stack([self._moved(*one, momentum).flatten(1) for one in moving])
        size = SIZE * max(moved.shape[1:]) ** 0.5
        rows = orthogonal(moved.to(self.precision)).to(moved.dtype)
        return [size * own.view_as(one.weight) for own, one in zip(rows, moving, strict=True)]

    def _moved(self, weight: Tensor, grad: Tensor, momentum: float) -> Tensor:
        """The gradient with momentum, after Nesterov."""
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        mean.lerp_(grad, 1 - momentum)
        return grad.lerp(mean, momentum)

    def _vectors(self, moving: Sequence[Moving], momentum: float) -> list[Tensor]:
        return [self._vector(*one, momentum) for one in moving]

    def _vector(self, weight: Tensor, grad: Tensor, momentum: float) -> Tensor:
        mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
        square = self.state[weight].setdefault("square", torch.zeros_like(weight))
        mean.lerp_(grad, 1 - momentum)
        square.lerp_(grad**2, 0.02)
        return mean / (square.sqrt() + 1e-8)


def orthogonal(x: Tensor) -> Tensor:
    """Nearly U V^T of every x = U S V^T, (..., n, m), by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    wide = x.shape[-2] <= x.shape[-1]
    y = x if wide else x.mT
    y = y / (torch.linalg.matrix_norm(y, keepdim=True) + 1e-7)
    for _ in range(5):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return y if wide else y.mT
