"""A diffusers folder as `--checkpoint`: what ComfyUI's loader would read otherwise than it is meant, is refused."""

from __future__ import annotations

import json
from pathlib import Path

from .refusal import Refusal

# What ComfyUI's loader of diffusers folders reads; weights in several files are not among it.
UNET = tuple(f"diffusion_pytorch_model{end}" for end in (".fp16.safetensors", ".safetensors", ".fp16.bin", ".bin"))
TEXT = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")
WEIGHTS = {"unet": UNET, "vae": UNET, "text_encoder": TEXT}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}  # diffusers' words -> ours


def refuse_unless_loadable(checkpoint: Path) -> None:
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
