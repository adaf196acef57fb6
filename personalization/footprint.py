"""The footprint of a training step: what it keeps in memory until its backward pass, known before one is taken.

Autograd hands every tensor that it keeps to a hook. The hook notes its size and keeps nothing, so that one forward for
one picture tells what a step needs without needing it. Weights are not counted, nor a tensor twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

WORKING = 4  # times the largest tensor: what a block needs while it runs, and the gradients that meet there


class Footprint(NamedTuple):
    """Bytes per picture: all that is kept, what is kept where `blocks` are recomputed, the largest tensor."""

    plain: int
    recomputed: int
    largest: int

    def of(self, pictures: int, checkpoint: bool) -> int:
        """What a step over so many pictures takes at most."""
        return pictures * ((self.recomputed if checkpoint else self.plain) + WORKING * self.largest)


class _Count:
    """Sizes of storages, each counted once: a weak reference keeps its address from being given away again."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self.seen = {ref.cdata: ref for ref in map(_reference, weights)}
        self.outside = self.largest = self.inputs = 0
        self.inside: list[int] = []  # per block that ran
        self.running = False
        self.given: dict[int, StorageWeakRef] = {}  # to blocks

    def kept(self, tensor: Tensor) -> None:
        size = _new(tensor, self.seen)
        self.largest = max(self.largest, size)
        if self.running:
            self.inside[-1] += size
        else:
            self.outside += size

    def enters(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.running = True
        self.inside.append(0)
        self.inputs += sum(_new(one, self.given) for one in (*args, *kwargs.values()) if isinstance(one, Tensor))

    def leaves(self, module: torch.nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self.running = False

    def footprint(self) -> Footprint:
        recomputed = self.outside + self.inputs + max(self.inside, default=0)
        return Footprint(self.outside + sum(self.inside), recomputed, self.largest)


def footprint(
    work: Callable[[], object],
    weights: Iterable[Tensor],
    blocks: Sequence[torch.nn.Module],
    is_made_again: Callable[[Tensor], bool] = lambda tensor: False,
) -> Footprint:
    """Of `work`, one forward for one picture with gradients on; `blocks` are those that checkpointing recomputes.

    What `is_made_again` for the backward pass is not kept until then.
    """
    count = _Count(weights)

    def note(tensor: Tensor) -> None:
        if not is_made_again(tensor):
            count.kept(tensor)

    with _hooked(blocks, count), saved_tensors_hooks(note, _never):
        work()
    return count.footprint()


@contextmanager
def _hooked(blocks: Sequence[torch.nn.Module], count: _Count) -> Iterator[None]:
    before = [block.register_forward_pre_hook(count.enters, with_kwargs=True) for block in blocks]
    after = [block.register_forward_hook(count.leaves) for block in blocks]
    try:
        yield
    finally:
        for hook in (*before, *after):
            hook.remove()


def _never(kept: None) -> Tensor:
    raise RuntimeError("A step that was only counted has no backward pass.")


def _reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _new(tensor: Tensor, seen: dict[int, StorageWeakRef]) -> int:
    """Bytes of the tensor's storage, 0 where it was seen before."""
    ref = _reference(tensor)
    if ref.cdata in seen:
        return 0
    seen[ref.cdata] = ref
    return tensor.untyped_storage().nbytes()
