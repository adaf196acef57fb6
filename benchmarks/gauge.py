"""What time and memory something takes here, in one process."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import comfy.model_management as host
import psutil
import torch

STATUS = Path("/proc/self/status")  # Linux


def on_gpu() -> bool:
    return not host.is_device_cpu(host.get_torch_device())


def accelerator() -> ModuleType:
    """What torch has for the device in use: torch.cuda, torch.xpu, torch.mps."""
    return getattr(torch, host.get_torch_device().type)


def device_name() -> str:
    """As people would say it: the GPU's name, or the CPU's model and the threads that were used."""
    if on_gpu():
        return str(host.get_torch_device_name(host.get_torch_device()))
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else 'CPU'}, {torch.get_num_threads()} thread"


def clock() -> float:
    """Seconds. On one thread of a CPU those that this process had it for: others may be busy there too."""
    if on_gpu():
        accelerator().synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(work: Callable[[], object]) -> float:
    began = clock()
    work()
    return clock() - began


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of neighbours' ratios."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def peak_bytes() -> int:
    """The most memory since then: the device's, or on the CPU this process's resident set, libraries included.

    MPS keeps no peak: there it is what Metal holds now, with what it keeps for later, and so near the most.
    """
    if on_gpu():
        memory = accelerator()
        return memory.max_memory_allocated() if _keeps_peaks(memory) else memory.driver_allocated_memory()
    if STATUS.exists():  # ru_maxrss keeps the parent's over exec
        return int(_status("VmHWM")) << 10
    return _peak_of_process()


def _keeps_peaks(memory: ModuleType) -> bool:
    return hasattr(memory, "max_memory_allocated")


def _peak_of_process() -> int:
    """Since its start, which is where forget_peak cannot forget."""
    if os.name == "nt":
        return psutil.Process().memory_info().peak_wset
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Peaks count from here, on Linux, CUDA and XPU: loading a checkpoint is not what is measured."""
    gc.collect()
    if on_gpu():
        if _keeps_peaks(accelerator()):
            accelerator().reset_peak_memory_stats()
    elif STATUS.exists():
        STATUS.with_name("clear_refs").write_text("5")


def used_bytes() -> int:
    gc.collect()
    if on_gpu():
        memory = accelerator()
        return memory.memory_allocated() if _keeps_peaks(memory) else memory.current_allocated_memory()
    return int(_status("VmRSS")) << 10 if STATUS.exists() else psutil.Process().memory_info().rss


def _status(name: str) -> str:
    return next(line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
