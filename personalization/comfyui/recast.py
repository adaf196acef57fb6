"""Weights in another dtype than the one that is computed in, or in main memory: made again for the backward pass.

ComfyUI casts or fetches such a weight (fp16 or fp8 in, bf16 or fp32 wanted) when its layer runs. Autograd would keep
every copy until the backward pass: a second model in memory. Here it keeps which layer it was, and asks the host once
more. What the host fetches may lie in a buffer that later layers overwrite; blocks that are computed twice keep what
their layers used out of our sight, so what autograd sees is never the buffer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
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
    begins: int  # in the weight, in elements


class _Casts:
    """`cast` is the host's own; the latest copy of every layer is known, for autograd saves it right after."""

    def __init__(self, cast: Callable[..., Any]) -> None:
        self.cast = cast
        self.copies: dict[int, _Copy] = {}  # by the address of their storage
        self.latest: dict[int, int] = {}  # address by layer

    def __call__(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        made = self.cast(layer, *args, **kwargs)
        if not torch.is_grad_enabled():
            return made
        weight, bias = map(_out_of_buffer, made[:2])
        if type(weight) is Tensor and weight is not layer.weight:
            self.copies.pop(self.latest.get(id(layer), 0), None)
            ref = StorageWeakRef(weight.untyped_storage())
            self.latest[id(layer)], self.copies[ref.cdata] = ref.cdata, _Copy(ref, layer)
        return (weight, bias, *made[2:])

    def copy_of(self, tensor: Tensor) -> _Copy | None:
        return self.copies.get(StorageWeakRef(tensor.untyped_storage()).cdata)

    def pack(self, tensor: Tensor) -> Tensor | _Again:
        copy = self.copy_of(tensor)
        if copy is None:
            return tensor.detach()  # itself it would keep its own graph alive, for good where a step is broken off
        begins = int(tensor.storage_offset())
        return _Again(copy.layer, tensor.dtype, tensor.device, tensor.size(), tensor.stride(), begins)

    def unpack(self, kept: Tensor | _Again) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            weight = self.cast(kept.layer, dtype=kept.dtype, device=kept.device, bias_dtype=kept.dtype)[0]
        return weight.as_strided(kept.size, kept.stride, int(weight.storage_offset()) + kept.begins)


def _out_of_buffer(made: Tensor | None) -> Tensor | None:
    return made.clone() if type(made) is Tensor and made._base is not None else made


_casts: list[_Casts] = []


@contextmanager
def cast_again(patchers: Iterable[ModelPatcher], computed_in: torch.dtype) -> Iterator[None]:
    """Within, no copy of a weight waits for the backward pass. Where there are no copies nothing is changed at all."""
    patchers = tuple(patchers)
    kinds = {parameter.dtype for patcher in patchers for parameter in patcher.model.parameters()}
    if kinds <= {computed_in} and all(one.load_device == one.offload_device for one in patchers):
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
