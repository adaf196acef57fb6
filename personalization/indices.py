"""Numbers that were counted on the host, as tensors on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def indices(numbers: Sequence[object], device: torch.device) -> Tensor:
    """As int64, of the shape of `numbers`."""
    return moved(torch.tensor(numbers, dtype=torch.long), device)


def moved(made: Tensor, device: torch.device) -> Tensor:
    """`made`, which the host has just made, on the device; the host waits for CUDA neither before nor after.

    `torch.tensor(numbers, device="cuda")` would wait. On other devices ComfyUI trusts no copy that is not waited for.
    """
    return made.to(device, non_blocking=device.type == "cuda")
