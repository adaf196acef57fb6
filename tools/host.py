"""What `python -m personalization` learns on, through the ComfyUI that dev.py finds: a checkpoint or the playground."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from . import comfyui, diffusers_folder, pack
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
    """MODEL, CLIP and VAE of a checkpoint or a diffusers folder, or of the playground where none is named."""
    if checkpoint is not None and not checkpoint.is_file():
        diffusers_folder.refuse_unless_loadable(checkpoint)
    kind = module("personalization.comfyui.canvas").Canvas
    if checkpoint is None:
        return kind(*module("playground.model").load()[:3])
    import comfy.diffusers_load
    import comfy.sd
    import folder_paths

    folders = folder_paths.get_folder_paths("embeddings")
    if checkpoint.is_file():
        return kind(*comfy.sd.load_checkpoint_guess_config(str(checkpoint.resolve()), embedding_directory=folders)[:3])
    found = kind(*comfy.diffusers_load.load_diffusers(str(checkpoint.resolve()), embedding_directory=folders))
    diffusers_folder.refuse_another_prediction(
        checkpoint, module("personalization.comfyui.family").prediction_of(found.model)
    )
    return found


def vision(file: Path | None, playground: bool) -> Any:
    """CLIP_VISION of a file, the playground's own, or none."""
    if playground:
        return module("playground.model").load_clip_vision()
    if file is None:
        return None
    import comfy.clip_vision

    return comfy.clip_vision.load(str(file))
