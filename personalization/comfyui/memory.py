"""Memory: what learning will need on this device, and the way of learning that fits."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

import comfy.model_management as host
import torch
from torch import Tensor

from ..footprint import Footprint, footprint
from ..learned import Event, Learned, Planned
from ..learner import LearnTask, rehearsals
from .gradient_checkpoint import blocks_of
from .recast import is_cast_again
from .session import Session

log = logging.getLogger("concept_loom")

COPIES = 2  # of the largest weight: kernels rearrange it, forward and backward (measured on a CPU)
FILLED = 0.9  # of the memory where weights make way: what is foretold may be wrong by a little
SPARED = 0.2  # of what did not fit beside the weights, at least, is asked for less in the second attempt
STATES = 3  # beside a trained tensor: its gradient and AdamW's two moments
SPENT = ("out of memory", "can't allocate memory")
TOO_MUCH = "It needs more than is free."
PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Offload(Enum):
    """Which weights wait in main memory, to be fetched whenever their layer runs."""

    NONE, NEEDED, ALL = range(3)


class Way(NamedTuple):
    """`checkpoint`: blocks are computed again in the backward pass instead of being kept; slower by a forward."""

    checkpoint: bool
    batch_size: int
    offload: Offload = Offload.NONE


class Room(NamedTuple):
    """Bytes: `weights` that are on the device or would be, the `largest` of them, those of the heaviest `block`.

    `total`: memory for them and a step. `movable` weights may wait in main memory. `trained`: tensors; `step`: of one
    picture, in the precision `computed_in`.
    """

    weights: int
    largest: int
    block: int
    total: int
    movable: int
    trained: int
    step: Footprint
    computed_in: torch.dtype

    def needs(self, way: Way) -> int:
        """Bytes at the peak, weights included."""
        return self._in_all(way) - self.waiting(way)

    @property
    def copied(self) -> int:
        """Bytes that kernels take beside the tensors that they are given."""
        return COPIES * self.largest

    def _in_all(self, way: Way) -> int:
        beside = self.copied + STATES * self.trained
        again = self.block if way.checkpoint else 0  # a block that is computed again keeps what was fetched or cast
        return self.weights + beside + again + self.step.of(way.batch_size, way.checkpoint)

    def waiting(self, way: Way) -> int:
        """Bytes of weights in main memory."""
        if way.offload is Offload.NEEDED:
            return max(0, min(self.movable, self._in_all(way) - int(FILLED * self.total)))
        return self.movable if way.offload is Offload.ALL else 0

    def has(self, way: Way) -> bool:
        return self.needs(way) <= self.total

    def ways(self, batch_size: int) -> list[Way]:
        """From the fastest to the sparest; the pictures per step, which change what is learned, come last."""
        least = Offload.ALL if self.movable else Offload.NONE
        fewer = [Way(True, size, least) for size in _halved(batch_size)]
        needed = [Way(True, batch_size, Offload.NEEDED)] if self.movable else []
        return list(dict.fromkeys((Way(False, batch_size), Way(True, batch_size), *needed, *fewer)))

    def best(self, batch_size: int) -> Way:
        """The first way that fits, or the sparest of all."""
        ways = self.ways(batch_size)
        return next((way for way in ways if self.has(way)), ways[-1])

    def sparer(self, way: Way, batch_size: int) -> Way | None:
        """What comes after a way that did not fit: with as many pictures per step if that helps, clearly or at all."""
        ways = self.ways(batch_size)
        left = ways[ways.index(way) + 1 :]
        as_many = [one for one in left if one.batch_size == way.batch_size]
        clearly = self.needs(way) - SPARED * (self._in_all(way) - self.weights)
        for among, most in ((as_many, clearly), (as_many, self.needs(way) - 1), (left, clearly)):
            if found := next((one for one in among if self.needs(one) <= most), None):
                return found
        return left[-1] if left else None

    def sentence(self, way: Way, batch_size: int) -> str:
        """What people read before learning: `batch_size` is what was asked for."""
        scarce = "" if self.has(way) else "; that is more than there is, and may fail"
        spared = [
            *(["blocks are computed twice to save memory"] if way.checkpoint else []),
            *([f"{gigabytes(self.waiting(way))} of weights wait in main memory"] if self.waiting(way) else []),
            *([f"{way.batch_size} instead of {batch_size} pictures per step"] if way.batch_size < batch_size else []),
        ]
        how = f" ({', '.join(spared)})" if spared else ""
        needed, free = self._figures(way)
        precision = PRECISIONS.get(self.computed_in, str(self.computed_in))
        return f"Learning in {precision} needs {needed} of {free} free{how}{scarce}."

    def shortage(self, way: Way) -> str:
        """What people read where memory ran out this way, whether that was foreseen or not."""
        needed, free = self._figures(way)
        return f"{needed} were foreseen and {free} were free; it needs more."

    def _figures(self, way: Way) -> tuple[str, str]:
        return gigabytes(self.needs(way)), gigabytes(self.total)


def _halved(size: int) -> Iterator[int]:
    while size > 0:
        yield size
        size //= 2


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def room_for(task: LearnTask, session: Session) -> Room:
    """Found out by one forward per stage of the recipe; the largest counts."""
    network, device = session.denoiser.network, session.denoiser.device
    weights: list[Tensor] = [*network.parameters(), *network.buffers(), *session.encoder.weights()]
    blocks = blocks_of(network)
    steps = [footprint(work, weights, blocks, is_cast_again) for work in rehearsals(task)]
    step = Footprint(*(max(sizes) for sizes in zip(*steps, strict=True)))
    trained = sum(tensor.numel() * 4 for tensor in task.start.values())
    largest = max(tensor.nbytes for tensor in network.parameters())
    computed_in = session.denoiser.patcher.model.get_dtype_inference()
    block = computed_in.itemsize * max(sum(one.numel() for one in block.parameters()) for block in blocks)
    free = int(host.get_free_memory(device))  # pyright: ignore[reportArgumentType]
    frozen = session.weights
    if host.vram_state is host.VRAMState.NO_VRAM:  # the host keeps them off the device, whatever is asked for
        return Room(frozen.loaded, largest, block, frozen.loaded + free, 0, trained, step, computed_in)
    return Room(frozen.size, largest, block, frozen.loaded + free, frozen.movable, trained, step, computed_in)


def in_memory(
    room: Room, batch_size: int, node: str, learned: Callable[[Way], Learned], tell: Callable[[Event], None]
) -> tuple[Learned, str]:
    """Learned in the best way that fits, one step sparer where memory runs out all the same; and what that was."""
    way = room.best(batch_size)
    told = _planned(room.sentence(way, batch_size), tell)
    try:
        return learned(way), told
    except Exception as error:
        if not ran_out(error):
            raise
        sparer = room.sparer(way, batch_size)
        if sparer is None:
            raise MemoryError(_advice(way.batch_size, node, room.shortage(way))) from error
    gc.collect()  # what the broken-off step still holds in cycles
    host.soft_empty_cache()
    told = _planned(f"Memory ran out, so it went on more sparingly. {room.sentence(sparer, batch_size)}", tell)
    with enough_memory(sparer.batch_size, node, room.shortage(sparer)):
        return learned(sparer), told


def _planned(sentence: str, tell: Callable[[Event], None]) -> str:
    log.info(sentence)
    tell(Planned(sentence))
    return sentence


@contextmanager
def enough_memory(batch_size: int, node: str, shortage: str = TOO_MUCH) -> Iterator[None]:
    """MemoryError with advice where memory runs out."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        raise MemoryError(_advice(batch_size, node, shortage)) from error


def ran_out(error: Exception) -> bool:
    """As the host knows it, and by the words of Apple's and the CPU's allocators, which raise a plain RuntimeError."""
    return host.is_oom(error) or isinstance(error, RuntimeError) and any(words in str(error) for words in SPENT)


def _advice(batch_size: int, node: str, shortage: str) -> str:
    if batch_size > 1:
        return (
            f"The device has too little memory for {batch_size} pictures per step. {shortage} "
            f"Set batch_size under the advanced inputs of {node} to {batch_size // 2}; with 1 it needs the least."
        )
    return (
        f"The device has too little memory for learning from one picture per step on this model. {shortage} "
        "Close what else uses the device, start ComfyUI with --bf16-unet, or learn on a smaller model."
    )
