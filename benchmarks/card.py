"""A card for ComfyUI: models that belong on a second device (second_device.py), as on a GPU with so much memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import comfy.model_management as host
import torch
from comfy.model_patcher import ModelPatcher

from .second_device import DEVICE, Memory, SecondDevice

AMPLE = 10**12  # bytes
MAIN = torch.device("cpu")


@contextmanager
def card(
    *patchers: ModelPatcher, size: int = AMPLE, state: host.VRAMState = host.VRAMState.NORMAL_VRAM
) -> Iterator[Memory]:
    """Within, these models' weights wait in main memory until the host loads them to the card.

    `state` is what ComfyUI was started for: --lowvram, --novram, or one memory shared with the CPU, as on a Mac.
    """
    unload()
    with ExitStack() as stack:
        memory = stack.enter_context(SecondDevice(size))
        stack.callback(unload)

        def free(where: torch.device | None = None, torch_free_too: bool = False) -> int | tuple[int, int]:
            left = size - memory.held if where == DEVICE else AMPLE
            return (left, 0) if torch_free_too else left

        stack.enter_context(patch.object(host, "get_free_memory", free))
        stack.enter_context(patch.object(host, "vram_state", state))
        before = [(patcher, patcher.load_device, patcher.offload_device) for patcher in patchers]
        try:
            for patcher in patchers:
                patcher.model.requires_grad_(False)
                patcher.load_device, patcher.offload_device = DEVICE, MAIN
            yield memory
        finally:
            for patcher, load, offload in before:
                patcher.detach()  # also where a clone brought its weights here
                patcher.load_device, patcher.offload_device = load, offload


def unload() -> None:
    """Weights move here by making new ones, which those of inference mode allow only while they take no gradients."""
    for patcher in (loaded.model for loaded in host.current_loaded_models):
        if patcher is not None:
            patcher.model.requires_grad_(False)
    host.unload_all_models()
