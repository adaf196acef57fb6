"""The most memory since then: the device's where torch counts it, else this process's resident set, with libraries."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psutil
import torch

STATUS = Path("/proc/self/status")  # Linux


def accelerator(device: torch.device) -> ModuleType | None:
    """torch.cuda, torch.xpu, torch.mps; None for a CPU, and where torch does not count what a device holds."""
    module = getattr(torch, device.type, None)
    counts = ("max_memory_allocated", "driver_allocated_memory")
    return module if any(hasattr(module, one) for one in counts) else None


def counts_peaks(device: torch.device) -> bool:
    return hasattr(accelerator(device), "max_memory_allocated")


def peak_bytes(device: torch.device) -> int:
    """MPS keeps no peak: there it is what Metal holds now, with what it keeps for later, and so near the most."""
    if memory := accelerator(device):
        return memory.max_memory_allocated(device) if counts_peaks(device) else memory.driver_allocated_memory()
    if STATUS.exists():  # ru_maxrss keeps the parent's over exec
        return of_process("VmHWM")
    return _peak_of_process()


def forget_peak(device: torch.device) -> None:
    """Peaks count from here, on Linux, CUDA and XPU."""
    gc.collect()
    if memory := accelerator(device):
        if counts_peaks(device):
            memory.reset_peak_memory_stats(device)
    elif STATUS.exists():
        with suppress(OSError):  # where it may not, peaks count from the process's start
            STATUS.with_name("clear_refs").write_text("5")


def of_process(name: str) -> int:
    """Bytes that Linux says of this process under the name."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def _peak_of_process() -> int:
    """Since its start, which is where forget_peak cannot forget."""
    if os.name == "nt":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
