"""Stage 1: the pictures that the base learns from, rendered once, in shards that a restart finds again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..world import Scene, caption, draw_scene, held_out, render, truth

SHARD = 4000
CAPTIONS = 4  # drawn for every picture


class Pictures(NamedTuple):
    """uint8 images (n, h, w, 3) and `CAPTIONS` captions for each."""

    images: Tensor
    captions: list[list[str]]

    @property
    def shards(self) -> int:
        return len(self.images) // SHARD


def told_scenes(number: int) -> Iterator[tuple[Scene, list[str]]]:
    """The `SHARD` scenes of that shard, each with its captions."""
    rng = np.random.default_rng([7, number])
    left = SHARD
    while left:
        scene = draw_scene(rng, split="base")
        if not held_out(truth(scene)):
            left -= 1
            yield scene, [caption(scene, rng) for _ in range(CAPTIONS)]


def render_shard(folder: Path, number: int) -> Path:
    path = folder / f"pictures-{number:04d}.npz"
    if path.exists():
        return path
    told = list(told_scenes(number))
    images, captions = [render(scene).image for scene, _ in told], [spoken for _, spoken in told]
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
