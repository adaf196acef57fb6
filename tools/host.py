"""What `python -m personalization` learns on: a checkpoint or the playground, through the ComfyUI that dev.py finds."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from . import comfyui, pack
from .refusal import Refusal


def module(name: str) -> ModuleType:
    """A module of the pack, with ComfyUI behind it: `module("personalization.comfyui.catalogue")`."""
    folder = comfyui.find()
    if not comfyui.is_comfyui(folder):
        raise Refusal(
            "No ComfyUI was found, neither above custom_nodes nor in COMFYUI_PATH nor in .loom; learning needs one. "
            "Set COMFYUI_PATH, or run python dev.py serve once, which fetches it."
        )
    pack.load_pack()
    return importlib.import_module(f"{pack.NAME}.{name}")


def canvas(checkpoint: Path | None) -> Any:
    """MODEL, CLIP and VAE of a checkpoint, or of the playground where none is named."""
    kind = module("personalization.comfyui.canvas").Canvas
    if checkpoint is None:
        return kind(*module("playground.model").load()[:3])
    import comfy.sd
    import folder_paths

    if not checkpoint.is_file():
        raise Refusal(f"--checkpoint is {checkpoint}, which is no file. Name an SD 1.5, SD 2 or SDXL checkpoint.")
    folders = folder_paths.get_folder_paths("embeddings")
    return kind(*comfy.sd.load_checkpoint_guess_config(str(checkpoint.resolve()), embedding_directory=folders)[:3])


def vision(file: Path | None, playground: bool) -> Any:
    """CLIP_VISION of a file, the playground's own, or none."""
    if playground:
        return module("playground.model").load_clip_vision()
    if file is None:
        return None
    import comfy.clip_vision

    return comfy.clip_vision.load(str(file))
