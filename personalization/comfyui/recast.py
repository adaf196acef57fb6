"""Weights in another dtype than the one that is computed in: cast again for the backward pass instead of kept.

ComfyUI casts such a weight (fp16 or fp8 in, bf16 or fp32 wanted) when its layer runs. Autograd would keep every copy
until the backward pass: a second model in memory. Here it keeps which layer it was, and asks the host once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.ops
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


class _Copy(NamedTuple):
    """A weight that was made for one call of its layer; the reference keeps its address from being given away."""

    ref: StorageWeakRef
    layer: torch.nn.Module


class _Again(NamedTuple):
    """What stands for a copy until the backward pass."""

    layer: torch.nn.Module
    dtype: torch.dtype
    device: torch.device
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _Casts:
    """`cast` is the host's own; the latest copy of every layer is known, for autograd saves it right after."""

    def __init__(self, cast: Callable[..., Any]) -> None:
        self.cast = cast
        self.copies: dict[int, _Copy] = {}  # by the address of their storage
        self.latest: dict[int, int] = {}  # address by layer

    def __call__(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        made = self.cast(layer, *args, **kwargs)
        weight = made[0]
        if torch.is_grad_enabled() and type(weight) is Tensor and weight is not layer.weight:
            self.copies.pop(self.latest.get(id(layer), 0), None)
            ref = StorageWeakRef(weight.untyped_storage())
            self.latest[id(layer)], self.copies[ref.cdata] = ref.cdata, _Copy(ref, layer)
        return made

    def copy_of(self, tensor: Tensor) -> _Copy | None:
        return self.copies.get(StorageWeakRef(tensor.untyped_storage()).cdata)

    def pack(self, tensor: Tensor) -> Tensor | _Again:
        copy = self.copy_of(tensor)
        if copy is None:
            return tensor
        made = copy.layer, tensor.dtype, tensor.device
        return _Again(*made, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, kept: Tensor | _Again) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            weight = self.cast(kept.layer, dtype=kept.dtype, device=kept.device, bias_dtype=kept.dtype)[0]
        return weight.as_strided(kept.size, kept.stride, kept.offset)


_casts: list[_Casts] = []


@contextmanager
def cast_again(networks: Iterable[torch.nn.Module], computed_in: torch.dtype) -> Iterator[None]:
    """Within, no copy of a weight waits for the backward pass. Without weights to cast nothing is changed at all."""
    kinds = {parameter.dtype for network in networks for parameter in network.parameters()}
    if kinds <= {computed_in}:
        yield
        return
    casts = _Casts(comfy.ops.cast_bias_weight)
    comfy.ops.cast_bias_weight = casts  # type: ignore[assignment] - its layers look it up at every call
    _casts.append(casts)
    try:
        with saved_tensors_hooks(casts.pack, casts.unpack):
            yield
    finally:
        _casts.remove(casts)
        comfy.ops.cast_bias_weight = casts.cast


def is_cast_again(tensor: Tensor) -> bool:
    """Whether autograd would not keep it here."""
    return any(casts.copy_of(tensor) for casts in _casts)
