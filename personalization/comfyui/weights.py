"""The frozen weights of a session: on the device, or some of them in main memory, fetched when their layer runs."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management as host
from comfy.model_patcher import ModelPatcher

EVERYTHING = 10**20  # bytes; asked for the exact size the host leaves a few layers behind


@dataclass(frozen=True)
class Weights:
    """In the order in which they go to main memory: the model comes last, it runs at every step."""

    patchers: tuple[ModelPatcher, ...]

    def load(self) -> None:
        """All of them to the device, and everything else off it.

        Where they do not fit, or leave less than the host wants to run a model, some wait in main memory until it is
        known what a step needs.
        """
        models = list(reversed(self.patchers))
        try:
            host.load_models_gpu(models, memory_required=int(1e20), force_full_load=True)
        except Exception as error:
            if not host.is_oom(error):
                raise
            host.load_models_gpu(models, memory_required=int(1e20))
        free = host.get_free_memory(self.patchers[-1].load_device)
        lacking = int(host.minimum_inference_memory() - free)  # pyright: ignore[reportOperatorIssue]
        if self.movable and lacking > 0:
            self.wait(min(self.size - self.loaded + lacking, self.movable))

    def unpin(self) -> None:
        """Weights that wait are pinned by their address, which the host would go on to hold if they were replaced."""
        for patcher in self.patchers:
            if not patcher.is_dynamic():
                patcher.unpin_all_weights()

    @property
    def size(self) -> int:
        """Bytes that belong on the model's device; `--lowvram` leaves the text encoders on the CPU for good."""
        return sum(patcher.model_size() for patcher in self._there)

    @property
    def loaded(self) -> int:
        """Bytes of them that are there."""
        return sum(patcher.loaded_size() for patcher in self._there)

    @property
    def movable(self) -> int:
        """Bytes that may be elsewhere: none where there is no main memory beside the device's."""
        shared = host.vram_state in (host.VRAMState.DISABLED, host.VRAMState.SHARED)
        apart = (patcher for patcher in self._there if patcher.load_device != patcher.offload_device)
        return 0 if shared else sum(patcher.model_size() for patcher in apart)

    def wait(self, size: int) -> None:
        """Leave about `size` bytes of them in main memory from here on, and have the others on the device."""
        for patcher in self._there:
            here, whole = patcher.loaded_size(), patcher.model_size()
            stays = whole - min(size, whole)
            if here > stays:
                patcher.partially_unload(patcher.offload_device, here - stays)
            elif here < stays:
                patcher.partially_load(patcher.load_device, stays - here if stays < whole else EVERYTHING)
            size -= whole - stays

    @property
    def _there(self) -> list[ModelPatcher]:
        device = self.patchers[-1].load_device
        return [patcher for patcher in self.patchers if patcher.load_device == device]
