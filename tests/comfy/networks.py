"""What the tests of towers and of nested encoders share: folders of their own, drawn pictures, and a short sampling."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from concept_loom.playground.model import CHANNELS
from concept_loom.playground.world import draw_scene, render
from torch import Tensor

import nodes


def use_own_folders(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concepts and networks of that kind are read and written below `folder`."""
    monkeypatch.setattr(folder_paths, "output_directory", str(folder / "output"))
    for one in ("concepts", kind):
        own = [str(folder / "models" / one), str(folder / "output" / one)]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, one, (own, {".safetensors"}))


def drawn(model, clip, text: str, steps: int = 2) -> Tensor:
    latent = {"samples": torch.zeros(1, CHANNELS, 8, 8)}
    with torch.inference_mode():
        asked, empty = (nodes.CLIPTextEncode().encode(clip, one)[0] for one in (text, ""))
        return nodes.KSampler().sample(model, 1, steps, 4.0, "euler", "normal", asked, empty, latent)[0]["samples"]


def pictures(seed: int, count: int) -> Tensor:
    """(count, h, w, 3) in 0..1."""
    rng = np.random.default_rng(seed)
    images = [render(draw_scene(rng, style="photo")).image for _ in range(count)]
    return torch.from_numpy(np.stack(images)).float() / 255
