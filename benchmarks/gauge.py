"""What time and memory something takes here, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import comfy.model_management as host
import psutil
import torch

from ..personalization.comfyui import peak


def on_gpu() -> bool:
    return not host.is_device_cpu(host.get_torch_device())


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
        getattr(torch, host.get_torch_device().type).synchronize()
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
    return peak.peak_bytes(host.get_torch_device())


def forget_peak() -> None:
    """Loading a checkpoint is not what is measured."""
    peak.forget_peak(host.get_torch_device())


def used_bytes() -> int:
    gc.collect()
    device = host.get_torch_device()
    if memory := peak.accelerator(device):
        return memory.memory_allocated() if peak.counts_peaks(device) else memory.current_allocated_memory()
    return peak.of_process("VmRSS") if peak.STATUS.exists() else psutil.Process().memory_info().rss
