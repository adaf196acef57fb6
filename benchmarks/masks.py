"""`bench masks`: do soft masks lie on the object, and do things cut out by them tell instances apart?

Rendered scenes have true masks; chance is the object's box. Instances stand alone in the same four settings: two
pictures of one of them in two settings must be more alike than it is to another of its class in the same setting, as
the playground's CLIP_VISION sees them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..personalization.comfyui.canvas import Canvas
from ..personalization.comfyui.session import training_session
from ..personalization.comfyui.studio import located, photographed, seen
from ..personalization.crops import cut_out
from ..personalization.pictures import Picture
from ..personalization.soft_masks import soft_masks
from ..playground.model import WEIGHTS, Playground, load
from ..playground.world import BACKGROUNDS, CLASSES, Scene, draw_instance, draw_scene, render
from .statistics import auc
from .table import Table, arguments, print_table

SCENES, QUICK_SCENES = 120, 24
SPLIT = "bench"
EACH, VIEWS = 4, 4  # instances of a class, and settings of each


class Overlap(NamedTuple):
    """Means over scenes. `iou`: of the soft mask and the true one; the rest are shares of the mask's weight."""

    scenes: int
    iou: float
    in_box: float  # of the soft mask's weight, inside the true box
    box: float  # of the picture: what a mask without any knowledge has in the box
    found: float  # of the true mask, under the soft one
    mask: float  # of the picture, under the soft mask


def overlap(soft: Tensor, true: Tensor, box: Tensor) -> Overlap:
    """All (n, 1, h, w) in 0..1."""
    sides = (1, 2, 3)
    iou = torch.minimum(soft, true).sum(sides) / torch.maximum(soft, true).sum(sides)
    inside = (soft * box).sum(sides) / soft.sum(sides)
    found = torch.minimum(soft, true).sum(sides) / true.sum(sides)
    means = (float(one.mean()) for one in (iou, inside, box, found, soft))
    return Overlap(len(soft), *(round(mean, 4) for mean in means))


def rows(scenes: list[Scene], canvas: Canvas) -> dict[str, Overlap]:
    """All scenes, and those without and with a companion beside the subject."""
    shown = [render(scene) for scene in scenes]
    pixels = torch.from_numpy(np.stack([one.image for one in shown])).float() / 255
    with torch.no_grad():
        latents = torch.cat([canvas.encode(one[None]) for one in pixels])
    with training_session(canvas.model, canvas.clip) as session:
        soft = torch.cat(
            [soft_masks(x0, *session, scene.subject.instance.class_name)
             for x0, scene in zip(latents.split(1), scenes, strict=True)]
        )  # fmt: skip
    size = (soft.shape[-2], soft.shape[-1])
    true, box = (_at(torch.stack(part)[:, None], size) for part in (_masks(shown), _boxes(shown)))
    beside = torch.tensor([scene.companion is not None for scene in scenes])
    chosen = {"all": beside | True, "object alone": ~beside, "beside a companion": beside}
    return {name: overlap(soft[own], true[own], box[own]) for name, own in chosen.items()}


def told_apart(playground: Playground, rng: np.random.Generator) -> dict[str, float]:
    """AUC of one instance in two settings against two of a class in one, by pictures whole and cut out."""
    instances = [draw_instance(rng, name, SPLIT) for name in CLASSES for _ in range(EACH)]
    scenes = [
        draw_scene(rng, subject=one, second="none", companion="none", style="photo", background=place, split=SPLIT)
        for one in instances
        for place in BACKGROUNDS[:VIEWS]
    ]
    shown = [render(scene) for scene in scenes]
    canvas = Canvas(playground.model, playground.clip, playground.vae)
    pixels = torch.from_numpy(np.stack([one.image for one in shown]))
    pictures = photographed(canvas, [Picture(f"{i}", one) for i, one in enumerate(pixels)])
    soft = [located(canvas, part, name) for part, name in zip(pictures.split(EACH * VIEWS), CLASSES, strict=True)]
    ways = {
        "whole": pictures,
        "true masks": cut_out(pictures, torch.stack(_masks(shown))[:, None]),
        "soft masks": cut_out(pictures, torch.cat(soft)),
    }
    return {name: _apart(seen(playground.clip_vision, way)) for name, way in ways.items()}


def _apart(vectors: Tensor) -> float:
    number = torch.arange(len(vectors))
    thing, place, kind = number // VIEWS, number % VIEWS, number // (VIEWS * EACH)
    near = vectors @ vectors.T
    same = (thing[:, None] == thing) & (place[:, None] != place)
    other = (thing[:, None] != thing) & (kind[:, None] == kind) & (place[:, None] == place)
    return round(auc(near[same].numpy(), near[other].numpy()), 4)


def _masks(shown: list) -> list[Tensor]:
    return [torch.from_numpy(one.mask).float() for one in shown]


def _boxes(shown: list) -> list[Tensor]:
    return [_box(one.box, torch.zeros(one.mask.shape)) for one in shown]


def _box(box: tuple[float, float, float, float], empty: Tensor) -> Tensor:
    height, width = empty.shape
    left, top, right, bottom = box
    empty[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
    return empty


def _at(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(masks, size, mode="area")


def main(argv: list[str]) -> int:
    wanted = arguments("masks").parse_args(argv)
    playground = load(wanted.weights or WEIGHTS)
    canvas = Canvas(playground.model, playground.clip, playground.vae)
    rng = np.random.default_rng([wanted.world_seed, 41])
    instances = [draw_instance(rng, CLASSES[i % len(CLASSES)], SPLIT) for i in range(_count(wanted.quick))]
    scenes = [draw_scene(rng, subject=one, second="none", style="photo", split=SPLIT) for one in instances]
    about = {"bench": "masks", "world_seed": wanted.world_seed, "quick": wanted.quick}
    table = Table(wanted.json, {**about, "weights": canvas.base().fingerprint})
    found = table.once("rows", lambda: {name: one._asdict() for name, one in rows(scenes, canvas).items()})
    heads = ("scenes", *Overlap._fields)
    print_table(heads, [(name, *one.values()) for name, one in found.items()])
    apart = table.once("told_apart", lambda: told_apart(playground, rng))
    print_table(("instances told apart by", "AUC"), list(apart.items()))
    return 0


def _count(quick: bool) -> int:
    return QUICK_SCENES if quick else SCENES
