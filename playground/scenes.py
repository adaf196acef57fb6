"""Scenes: everything a picture shows, with no randomness left."""

from dataclasses import dataclass

import numpy as np

from .backgrounds import BACKGROUNDS
from .canvas import Pose
from .companions import COMPANIONS
from .instances import Instance, draw_instance
from .styles import NAMED_STYLES, PHOTO, Style, draw_style

POSITIONS = {
    "left": (0.29, 0.55),
    "right": (0.71, 0.55),
    "center": (0.50, 0.51),
    "top": (0.50, 0.30),
    "bottom": (0.50, 0.71),
}
NONE = "none"
_SHARES = {"photo": 0.60, "named": 0.25, "unnamed": 0.15}
_CROWDS = {"second": 0.12, "companion": 0.35, "alone": 0.53}


@dataclass(frozen=True)
class Figure:
    instance: Instance
    pose: Pose


@dataclass(frozen=True)
class Prop:
    name: str
    pose: Pose


@dataclass(frozen=True)
class Light:
    brightness: float = 1.0
    warmth: float = 0.0  # -1 cold .. 1 warm


@dataclass(frozen=True)
class Scene:
    subject: Figure
    second: Figure | None
    companion: Prop | None
    background: str
    background_seed: int
    position: str
    style: Style
    style_name: str  # "photo", a name, or "unnamed"
    style_seed: int
    light: Light


def draw_scene(
    rng: np.random.Generator,
    *,
    subject: Instance | None = None,
    second: Instance | str | None = None,
    style: Style | str | None = None,
    background: str | None = None,
    position: str | None = None,
    companion: str | None = None,
    split: str | None = None,
) -> Scene:
    """What is not given is drawn; instances and unnamed styles from that split.

    second="none" and companion="none" forbid them. A second object is drawn only where neither a subject
    nor a companion nor a position other than left and right was given.
    """
    free = subject is None and companion is None and position in (None, "left", "right")
    crowd = _pick(rng, _CROWDS)
    if second is None and free and crowd == "second":
        second = draw_instance(rng, split=split)
    other = second if isinstance(second, Instance) else None
    if other is None and companion is None and crowd == "companion":
        companion = _one_of(rng, tuple(COMPANIONS))
    subject = subject or draw_instance(rng, split=split)
    position = position or _one_of(rng, ("left", "right") if other else tuple(POSITIONS))
    poses = _poses(rng, position, other is not None, companion not in (None, NONE))
    name, look = _style(rng, style, split)
    return Scene(
        subject=Figure(subject, poses[0]),
        second=Figure(other, poses[1]) if other else None,
        companion=Prop(companion, poses[1]) if companion not in (None, NONE) and other is None else None,
        background=background or _one_of(rng, BACKGROUNDS),
        background_seed=int(rng.integers(2**31)),
        position=position,
        style=look,
        style_name=name,
        style_seed=int(rng.integers(2**31)),
        light=_light(rng),
    )


def _one_of(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return round(float(rng.uniform(low, high)), 4)


def _light(rng: np.random.Generator) -> Light:
    return Light(_uniform(rng, 0.68, 1.25), _uniform(rng, -1, 1))


def _style(rng: np.random.Generator, style: Style | str | None, split: str | None) -> tuple[str, Style]:
    if isinstance(style, Style):
        known = {look: name for name, look in NAMED_STYLES.items()} | {PHOTO: "photo"}
        return known.get(style, "unnamed"), style
    name = style or _pick(rng, _SHARES)
    if name == "named":
        name = _one_of(rng, tuple(NAMED_STYLES))
    if name == "unnamed":
        return name, draw_style(rng, split)
    return name, PHOTO if name == "photo" else NAMED_STYLES[name]


def _poses(rng: np.random.Generator, position: str, paired: bool, accompanied: bool) -> tuple[Pose, Pose]:
    """The subject's pose, and the pose of whatever stands on its free side."""
    crowded = paired or accompanied
    half = _uniform(rng, 0.20, 0.22) if crowded else _uniform(rng, 0.27, 0.31)
    x, y = (centre + _uniform(rng, -0.03, 0.03) for centre in POSITIONS[position])
    x = min(max(x, half), 1 - half)
    subject = _turned(rng, x, min(max(y, half), 1 - half), half)
    size = _uniform(rng, 0.20, 0.22) if paired else _uniform(rng, 0.115, 0.135)
    side = 1 if position == "left" else -1 if position == "right" else int(rng.choice([-1, 1]))
    beside = x + side * (half + size + (0.03 if paired else 0.02))
    beside = min(max(beside, size), 1 - size)
    return subject, _turned(rng, beside, subject.y + half - size - 0.01, size)


def _turned(rng: np.random.Generator, x: float, y: float, half: float) -> Pose:
    return Pose(round(x, 4), round(y, 4), half, _uniform(rng, -12, 12), bool(rng.random() < 0.5))
