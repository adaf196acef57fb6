"""Random weights in the playground's files, for tests that need no trained ones."""

from __future__ import annotations

from pathlib import Path

import torch
from concept_loom.playground import model as playground
from safetensors.torch import save_file


def write_scratch_weights(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    clip = playground.PlaygroundClipModel(dtype=torch.float32).clip_l
    vision = playground.ClipVisionModel(playground.VISION_FILE).model
    for name, module in {
        "unet": playground.new_unet(),
        "text": clip,
        "vision": vision,
        "vae": playground.PatchAutoencoder(playground.CHANNELS),
    }.items():
        playground.initialise(module, generator)
        _stir(module, generator)
        state = {key: value.contiguous().clone() for key, value in module.state_dict().items()}
        save_file(
            playground.packed(state, list(range(1000))) if name == "text" else state, folder / f"{name}.safetensors"
        )


def _stir(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Output projections start at zero, and a model whose text changes nothing cannot learn a concept."""
    for parameter in module.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.normal_(0.0, 0.05, generator=generator)
