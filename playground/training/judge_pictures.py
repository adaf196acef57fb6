"""What the judges learn from: pictures of the split "judge", rendered once, in shards that a restart finds again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..judge import COLOURED, CROP_HEADS, WHOLE_HEADS, visible
from ..palette import COLOURS
from ..patterns import ORNAMENTS, PATTERNS, PLACES
from ..shapes import DETAILS, SHAPES
from ..world import (
    FACTORS,
    Figure,
    Instance,
    Scene,
    Style,
    draw_instance,
    draw_scene,
    draw_style,
    identifier,
    render,
    split_of,
    truth,
    vary,
)

VIEWS = 4  # of a style, and of an instance
GROUPS = 800  # of pictures in a shard
PANEL_MARGIN = 1.05
LOOKS = 25  # numbers of a style
UNKNOWN = -100  # cross_entropy's ignore_index
STYLES = {"photo": 0.25, "named": 0.25, "unnamed": 0.50}
FACTOR_NAMES: dict[str, tuple[str, ...]] = {
    "pattern": PATTERNS,
    "ornament": ORNAMENTS,
    "place": tuple(PLACES),
    "detail": tuple(f"{name} {detail}" for name, details in DETAILS.items() for detail in details),
    "secondary": COLOURS,
    "ornament_colour": COLOURS,
}
COLOUR_FACTORS = ("primary", "secondary", "ornament_colour")
SHAPE_NUMBERS = ("taper", "build", "frequency")


class Scenes(NamedTuple):
    """Groups of VIEWS pictures in one style."""

    images: Tensor  # (n, h, w, 3)
    answers: Tensor  # (n, heads), UNKNOWN where it cannot be told
    boxes: Tensor  # (n, 3, 4), NaN where there is none
    styles: Tensor  # (n,), equal for equal styles
    looks: Tensor  # (n, LOOKS): the style's own numbers


class Views(NamedTuple):
    """Groups of VIEWS pictures of one instance and VIEWS of a variation in a single factor."""

    images: Tensor
    boxes: Tensor  # (n, 4)
    places: Tensor  # (n, 5), in 0..1: the ornament's centre, the panel's centre, half the panel's longer side
    instances: Tensor  # (n,)
    answers: Tensor  # (n, len(CROP_HEADS)), UNKNOWN where it cannot be told
    names: Tensor  # (n, len(FACTOR_NAMES)), likewise where it cannot be told
    numbers: Tensor  # (n, 3 + 9): taper, build, frequency; three colours


def scenes(folder: Path, count: int, workers: int = 1) -> Scenes:
    return Scenes(**_shards(folder, "scenes", _scene_rows, -(-count // (GROUPS * VIEWS)), workers))


def views(folder: Path, count: int, workers: int = 1) -> Views:
    return Views(**_shards(folder, "views", _view_rows, -(-count // (GROUPS * VIEWS)), workers))


Rows = dict[str, np.ndarray]


def _shards(folder: Path, name: str, rows: Callable, count: int, workers: int) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        paths = list(pool.map(partial(_shard, folder, name, rows), range(count)))
    shards = [np.load(path) for path in paths]
    return {key: torch.from_numpy(np.concatenate([shard[key] for shard in shards])) for key in shards[0]}


def _shard(folder: Path, name: str, rows: Callable[[np.random.Generator, int], Rows], number: int) -> Path:
    path = folder / f"judge-{name}-{number:02d}.npz"
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez(part, **cast(dict[str, Any], rows(np.random.default_rng([17, number, len(name)]), number)))
        part.replace(path)
    return path


def _scene_rows(rng: np.random.Generator, number: int) -> Rows:
    rows = [_scene_row(rng, style) for _ in range(GROUPS) for style in [_style(rng)] * VIEWS]
    styles = {}
    return {
        "images": np.stack([image for image, *_ in rows]),
        "answers": np.array([answers for _, answers, *_ in rows], np.int64),
        "boxes": np.array([boxes for _, _, boxes, *_ in rows], np.float32),
        "styles": np.array([_number(styles, style, number) for _, _, _, style, _ in rows], np.int64),
        "looks": np.array([look for *_, look in rows], np.float32),
    }


def _number(known: dict[str, int], style: str, shard: int) -> int:
    """Styles with a name have one number in all shards: the place of their name."""
    named = WHOLE_HEADS["style"]
    return named.index(style) if style in named else 1000 * shard + len(named) + known.setdefault(style, len(known))


def _style(rng: np.random.Generator) -> Style | str:
    kind = str(rng.choice(list(STYLES), p=list(STYLES.values())))
    if kind == "unnamed":
        return draw_style(rng, "judge")
    return kind if kind == "photo" else str(rng.choice(WHOLE_HEADS["style"][1:-1]))


def _scene_row(rng: np.random.Generator, style: Style | str) -> tuple[np.ndarray, list[int], np.ndarray, str, list]:
    second = draw_instance(rng, split="judge") if rng.random() < 0.25 else "none"
    scene = draw_scene(rng, style=style, second=second, split="judge")
    picture, known = render(scene), truth(scene)
    right = visible(known)
    answers = [_index(names, right.get(head)) for head, names in WHOLE_HEADS.items()]
    boxes = np.full((3, 4), np.nan, np.float32)
    for place, box in _boxes(scene, picture.box).items():
        boxes[place] = box
    name = known.style if known.style != "unnamed" else known.style_id
    return picture.image, answers, boxes, name, look(scene.style)


def look(style: Style) -> list[float]:
    """What there is to see of a style, as numbers (LOOKS) that are 0 where it does not use them."""
    toned, lined, hatched = style.duotone > 0, style.line > 0, style.hatch > 0
    turn = 2 * np.deg2rad(style.hatch_angle)
    tones = [toned * channel for channel in (*style.shadow, *style.highlight)]
    lines = [style.line, *(lined * channel for channel in style.line_colour)]
    hatch = [style.hatch, style.hatch * np.cos(turn), style.hatch * np.sin(turn), hatched * style.hatch_frequency / 15]
    flat = [style.saturation, float(style.levels > 0), style.levels / 5, float(style.mosaic > 0), style.mosaic / 30]
    surface = [style.blur, style.bleed, style.grain, style.invert, style.vignette]
    return [style.duotone, *tones, *lines, *hatch, *flat, *surface]


def _index(names: tuple[str, ...], name: str | None) -> int:
    return UNKNOWN if name is None else names.index(name)


def _boxes(scene: Scene, box: tuple[float, ...]) -> dict[int, tuple[float, ...]]:
    if scene.second is None:
        return {0: box}
    other = render(replace(scene, subject=scene.second, second=None)).box
    return {1: box, 2: other} if scene.position == "left" else {2: box, 1: other}


def _view_rows(rng: np.random.Generator, number: int) -> Rows:
    instances = [one for _ in range(GROUPS // 2) for one in _family(rng)]
    rows = [(*_view(rng, instance), place) for place, instance in enumerate(instances) for _ in range(VIEWS)]
    return {
        "images": np.stack([image for image, *_ in rows]),
        "boxes": np.array([box for _, box, *_ in rows], np.float32),
        "places": np.array([places for _, _, places, *_ in rows], np.float32),
        "instances": np.array([GROUPS * number + place for *_, place in rows], np.int64),
        "answers": np.array([_answers(instances[place], style) for *_, style, place in rows], np.int64),
        "names": np.array([_names(instances[place], style) for *_, style, place in rows], np.int64),
        "numbers": np.array([_numbers(instances[place]) for *_, place in rows], np.float32),
    }


def _family(rng: np.random.Generator) -> tuple[Instance, Instance]:
    """An instance and a variation of it, both of the judge's own split."""
    while True:
        instance = draw_instance(rng, split="judge")
        variation = vary(instance, str(rng.choice(FACTORS)), rng)
        if split_of(identifier(variation)) == "judge":
            return instance, variation


def _view(rng: np.random.Generator, instance: Instance) -> tuple[np.ndarray, tuple[float, ...], np.ndarray, str]:
    style = "photo" if rng.random() < 0.6 else str(rng.choice(WHOLE_HEADS["style"][1:-1]))
    second = draw_instance(rng, split="judge") if rng.random() < 0.15 else "none"
    paired = {"second": second, "position": str(rng.choice(["left", "right"]))} if second != "none" else {}
    scene = draw_scene(rng, subject=instance, style=style, split="judge", **paired)
    picture = render(scene)
    return picture.image, picture.box, places(scene.subject), style


def places(figure: Figure) -> np.ndarray:
    """Where the renderer puts ornament and panel; a mirrored view mirrors the panel only."""
    instance, pose = figure.instance, figure.pose
    panel = SHAPES[instance.class_name](instance.taper, instance.build, instance.detail).panel
    across, down = PLACES[instance.place]
    middle = np.array([panel.x * (-1 if pose.flip else 1), panel.y])
    ornament = middle + (across * panel.half_width, down * panel.half_height)
    points = pose.place(np.stack([ornament, middle]), mirrored=False)
    return np.append(points, PANEL_MARGIN * pose.half * max(panel.half_width, panel.half_height))


def _answers(instance: Instance, style: str) -> list[int]:
    seen = {"class": instance.class_name, "colour": instance.primary.name if style in COLOURED else None}
    return [_index(names, seen[head]) for head, names in CROP_HEADS.items()]


def _names(instance: Instance, style: str) -> list[int]:
    seen = {name: getattr(instance, name) for name in FACTOR_NAMES}
    seen["detail"] = f"{instance.class_name} {instance.detail}"
    for name in COLOUR_FACTORS[1:]:
        seen[name] = getattr(instance, name).name if style in COLOURED else None
    return [_index(names, seen[factor]) for factor, names in FACTOR_NAMES.items()]


def _numbers(instance: Instance) -> list[float]:
    shape = [getattr(instance, name) for name in SHAPE_NUMBERS]
    return shape + [channel for name in COLOUR_FACTORS for channel in getattr(instance, name).rgb]
