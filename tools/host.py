"""What `python -m personalization` learns on, through the ComfyUI that dev.py finds: a checkpoint or the playground."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from . import comfyui, pack
from .refusal import Refusal

# What ComfyUI's loader of diffusers folders reads; weights in several files are not among it.
UNET = tuple(f"diffusion_pytorch_model{end}" for end in (".fp16.safetensors", ".safetensors", ".fp16.bin", ".bin"))
TEXT = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")
WEIGHTS = {"unet": UNET, "vae": UNET, "text_encoder": TEXT}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}  # diffusers' words -> ours


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
    if checkpoint is not None:
        _refuse_what_cannot_be_loaded(checkpoint)
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
    refuse_another_prediction(checkpoint, module("personalization.comfyui.family").prediction_of(found.model))
    return found


def _refuse_what_cannot_be_loaded(checkpoint: Path) -> None:
    if checkpoint.is_file():
        return
    if not (checkpoint / "model_index.json").is_file():
        what = "a folder without model_index.json" if checkpoint.is_dir() else "no file and no folder"
        raise Refusal(
            f"--checkpoint is {checkpoint}, which is {what}. An SD 1.5, SD 2 or SDXL checkpoint is needed, as one file "
            "or as a diffusers folder. Name one of these."
        )
    for part, names in WEIGHTS.items():
        if not any((checkpoint / part / name).is_file() for name in names):
            raise Refusal(
                f"--checkpoint is {checkpoint}, whose {part}/ holds none of {', '.join(names)}; ComfyUI reads these. "
                "Save the pipeline with its weights in one file per part, or name a checkpoint file."
            )
    for part in ("text_encoder", "text_encoder_2"):
        _refuse_an_encoder_that_comfyui_does_not_know(checkpoint / part)


def _refuse_an_encoder_that_comfyui_does_not_know(folder: Path) -> None:
    """ComfyUI would go on with a CLIP of uninitialised weights."""
    file = next((folder / name for name in TEXT if (folder / name).is_file()), None)
    if file is None or file.suffix != ".safetensors":
        return
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    if not any(name.startswith("text_model.") for name in header):
        raise Refusal(
            f"The names of the weights in {file} do not begin with text_model., by which ComfyUI knows a text encoder. "
            "Those of a published pipeline do. Load that with from_pretrained and save it again, or name a checkpoint."
        )


def refuse_another_prediction(folder: Path, loaded: str) -> None:
    """ComfyUI tells what a denoiser predicts from its weights, which a diffusers folder says beside them."""
    file = folder / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    said = scheduler.get("prediction_type", "epsilon")
    meant = "edm" if scheduler.get("_class_name", "").startswith("EDM") else PREDICTIONS.get(said, said)
    if scheduler and meant != loaded:
        raise Refusal(
            f"--checkpoint is {folder}, whose scheduler says that the model predicts {meant}; ComfyUI loads it as "
            f"{loaded}. The two must agree. Name the same model as one checkpoint file, which tells ComfyUI so itself."
        )


def vision(file: Path | None, playground: bool) -> Any:
    """CLIP_VISION of a file, the playground's own, or none."""
    if playground:
        return module("playground.model").load_clip_vision()
    if file is None:
        return None
    import comfy.clip_vision

    return comfy.clip_vision.load(str(file))
