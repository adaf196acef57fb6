"""What learning runs on, as far as it may be told to others."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import comfy.model_management as host
import comfy.model_patcher
import comfyui_version
import torch

PACK = Path(__file__).parents[2] / "pyproject.toml"


def machine() -> dict[str, str]:
    device = host.get_torch_device()
    total, free = host.get_total_memory(device), host.get_free_memory(device)
    return {
        "Concept Loom": pack_version(),
        "ComfyUI": comfyui_version.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": host.get_torch_device_name(device),
        "memory": f"{int(free) >> 20} of {int(total) >> 20} MiB free",  # pyright: ignore[reportArgumentType]
        "memory mode": host.vram_state.name,
    }


def model_facts(model: comfy.model_patcher.ModelPatcher) -> dict[str, object]:
    return {
        "model": f"{type(model.model).__name__} ({type(model.model.model_config).__name__})",
        "weights": f"{model.model.get_dtype()}, computed in {model.model.get_dtype_inference()}",
        "patched weights": len(model.patches),
        "pages its weights": model.is_dynamic(),
    }


def pack_version() -> str:
    """By a pattern: Python 3.10 has no TOML reader."""
    found = re.search(r'^version = "(.+)"', PACK.read_text(encoding="utf-8"), re.M) if PACK.exists() else None
    return found[1] if found else "unknown"
