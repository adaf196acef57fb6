"""A second device where there is none: tensors that say they are elsewhere, in a memory of their own.

Values are computed on the CPU, for real. An operation on tensors of two devices is refused as CUDA refuses it, and what
no longer fits is out of memory. It cannot tell anything about speed, streams or a GPU's own kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("lazy:0")  # no kernels here, and autograd runs it in the thread that asks
HERE = torch.device("cpu")
WHOLE = "aten::scaled_dot_product_attention"
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::_has_compatible_shallow_copy_type")
READING = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class Memory:
    """Bytes of all storages that live on the device; `reads`: how often the host has asked for what stands there."""

    def __init__(self, size: float) -> None:
        self.size, self.held, self.peak, self.reads = size, 0, 0, 0
        self.users: dict[int, int] = {}  # of a storage, by its address

    def takes(self, address: int, size: int) -> None:
        if self.held + size > self.size and address not in self.users:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {size} bytes beside {self.held} of {self.size}")
        if address not in self.users:
            self.held += size
            self.peak = max(self.peak, self.held)
        self.users[address] = self.users.get(address, 0) + 1

    def gives(self, address: int, size: int) -> None:
        self.users[address] -= 1
        if not self.users[address]:
            del self.users[address]
            self.held -= size


class _Place:
    """What a tensor there has of the memory, as long as it lives."""

    def __init__(self, memory: Memory, real: Tensor) -> None:
        storage = real.untyped_storage()
        self.memory, self.taken = memory, (storage.data_ptr(), storage.nbytes())
        memory.takes(*self.taken)
        self.storage = storage  # its address is not given away before

    def __del__(self) -> None:
        if hasattr(self, "storage"):
            self.memory.gives(*self.taken)


class There(Tensor):
    """A tensor on the device, and its value."""

    value: Tensor
    place: _Place

    @staticmethod
    def __new__(cls, real: Tensor, memory: Memory) -> There:
        layout = {"strides": real.stride(), "storage_offset": real.storage_offset(), "dtype": real.dtype}
        there = Tensor._make_wrapper_subclass(cls, real.size(), device=DEVICE, **layout)
        there.value, there.place = real, _Place(memory, real)
        return there

    def __repr__(self) -> str:
        return f"There({self.value!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None) -> Any:
        (first, *_) = (one for one in tree_leaves((args, kwargs)) if isinstance(one, There))
        return _Dispatch(first.place.memory)(func, args, kwargs or {})


class _Dispatch:
    """One operation: refused, or done on the real values, with its result on the device where it belongs."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __call__(self, func: Any, args: Sequence, kwargs: Mapping) -> Any:
        name = func._schema.name
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = [one for one in tensors if isinstance(one, There)]
        if name not in CROSSING:
            _same_device(name, args, tensors, there)
        asked = kwargs.get("device")
        goes = bool(there) if asked is None else torch.device(asked).type == DEVICE.type
        if name == "aten::copy_":
            goes = isinstance(args[0], There)
        if goes and kwargs.get("generator") is not None:
            raise RuntimeError(
                f"Expected a generator of {DEVICE} for {name}, found one of {kwargs['generator'].device}"
            )
        self.memory.reads += bool(there) and (not goes or name in READING)
        real_args, real_kwargs = tree_map_only(There, lambda one: one.value, (args, dict(kwargs)))
        out = func(*real_args, **({**real_kwargs, "device": HERE} if asked is not None else real_kwargs))
        if not goes:
            return out
        known = {id(one.value): one for one in there}
        return tree_map_only(Tensor, lambda one: known[id(one)] if id(one) in known else There(one, self.memory), out)


def _same_device(name: str, args: Sequence, tensors: Sequence[Tensor], there: Sequence[There]) -> None:
    if name in INDEXED:  # the places may be told from elsewhere
        tensors = [one for one in (args[0], *args[2:3]) if isinstance(one, Tensor)]
    apart = [one for one in tensors if one.device != DEVICE and one.dim()]
    if there and apart:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}, {DEVICE} and {apart[0].shape} here")


class _Modes(TorchDispatchMode):
    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.dispatch = _Dispatch(memory)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None) -> Any:
        if func._schema.name != WHOLE:  # without autograd what is made of other operations arrives as one
            with self:
                made = func.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made
        return self.dispatch(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does in C++ before anything is dispatched: values from Python, and to it."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], There):
            return func(args[0].detach().cpu())
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_there(named.get("device")):
            return func(*args, **{**named, "device": HERE}).to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            args = (args[0], _told(args[1]), *args[2:])
        return func(*args, **named)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """As a GPU's: the weights of all queries and keys are never there at once. Masks may not be boolean."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, float("-inf"))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _told(index: Any) -> Any:
    every = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(one) if isinstance(one, list) else one for one in every)


class SecondDevice:
    """Within it there is `DEVICE`, with a memory of `size` bytes."""

    def __init__(self, size: float = float("inf")) -> None:
        self.memory, self._stack = Memory(size), ExitStack()

    def __enter__(self) -> Memory:
        attention = torch.library.Library("aten", "IMPL")
        attention.impl("scaled_dot_product_attention", _attention, "AutogradLazy")
        self._stack.callback(attention._destroy)
        setattr(torch, DEVICE.type, torch.cpu)  # checkpointing asks the device's module for autocast
        self._stack.callback(delattr, torch, DEVICE.type)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        self._stack.enter_context(_Modes(self.memory))
        self._stack.enter_context(_Functions())
        return self.memory

    def __exit__(self, *error: object) -> None:
        self._stack.close()
