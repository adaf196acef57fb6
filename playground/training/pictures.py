"""Stage 1: the pictures that the base learns from, rendered once, in shards that a restart finds again."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..world import caption, draw_scene, held_out, render, truth

SHARD = 4000
CAPTIONS = 4  # drawn for every picture


class Pictures(NamedTuple):
    """uint8 images (n, h, w, 3) and `CAPTIONS` captions for each."""

    images: Tensor
    captions: list[list[str]]


def render_shard(folder: Path, number: int) -> Path:
    path = folder / f"pictures-{number:04d}.npz"
    if path.exists():
        return path
    rng = np.random.default_rng([7, number])
    images, captions = [], []
    while len(images) < SHARD:
        scene = draw_scene(rng, split="base")
        if not held_out(truth(scene)):
            images.append(render(scene).image)
            captions.append([caption(scene, rng) for _ in range(CAPTIONS)])
    part = path.with_suffix(".part.npz")
    np.savez(part, images=np.stack(images), captions=np.array(captions))
    part.replace(path)
    return path


def pictures(folder: Path, count: int, workers: int = 2) -> Pictures:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(-(-count // SHARD))
    with ProcessPoolExecutor(workers) as pool:
        paths = list(pool.map(render_shard, [folder] * len(numbers), numbers))
    shards = [np.load(path) for path in paths]
    images = torch.from_numpy(np.concatenate([shard["images"] for shard in shards]))
    return Pictures(images, [list(row) for shard in shards for row in shard["captions"]])
