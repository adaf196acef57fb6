"""fp32 masters as a model call needs them."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class RowCache:
    """fp32 masters in a call's dtype and on its device; masters that are being trained are never kept."""

    def __init__(self) -> None:
        self._kept: MutableMapping[Tensor, dict[tuple[torch.device, torch.dtype], Tensor]] = WeakTensorKeyDictionary()

    def like(self, master: Tensor, other: Tensor) -> Tensor:
        if master.requires_grad or (master.device, master.dtype) == (other.device, other.dtype):
            return _outside_inference(master).to(other)
        copies = self._kept.setdefault(master, {})
        key = (other.device, other.dtype)
        if key not in copies:
            copies[key] = _outside_inference(master).to(other)
        return copies[key]


def _outside_inference(master: Tensor) -> Tensor:
    """Nodes load concepts in inference mode; autograd refuses to save such tensors, even frozen ones."""
    return master.clone() if master.is_inference() and not torch.is_inference_mode_enabled() else master
