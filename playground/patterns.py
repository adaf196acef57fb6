"""Surface patterns and ornaments as polygons in an object's own frame."""

import numpy as np

from .canvas import Points, arc, box, ellipse, polygon
from .shapes import Panel

PATTERNS = ("dipped", "stripes", "bands", "diagonals", "dots", "checks", "zigzag", "rings")
ORNAMENTS = ("star", "heart", "ring", "triangle", "cross", "drop", "moon")
PLACES = {
    "middle": (0.0, 0.0),
    "upper left": (-0.54, -0.5),
    "upper right": (0.54, -0.5),
    "lower left": (-0.54, 0.5),
    "lower right": (0.54, 0.5),
}
REACH = 1.15


def pattern(kind: str, frequency: float, panel: Panel) -> list[Points]:
    """What the secondary colour covers; `frequency` 0..1 is few to many."""
    period = 2 / (2.2 + 4.8 * frequency)
    if kind == "dipped":
        return [box(-REACH, panel.y + panel.half_height * (0.75 - 1.5 * frequency), REACH, REACH)]
    if kind == "rings":
        return _rings(period, panel)
    return _TILED[kind](period)


def _steps(period: float) -> np.ndarray:
    return np.arange(-REACH - period, REACH + period, period)


def _stripes(period: float) -> list[Points]:
    return [box(-REACH, y, REACH, y + period / 2) for y in _steps(period)]


def _bands(period: float) -> list[Points]:
    return [box(x, -REACH, x + period / 2, REACH) for x in _steps(period)]


def _diagonals(period: float) -> list[Points]:
    lean, width = 2 * REACH, period * 0.62
    starts = np.arange(-REACH - lean, REACH, period * 1.3)
    return [polygon((x, REACH), (x + width, REACH), (x + width + lean, -REACH), (x + lean, -REACH)) for x in starts]


def _dots(period: float) -> list[Points]:
    rows = enumerate(_steps(period))
    return [ellipse(x + period / 2 * (row % 2), y, 0.33 * period, sides=12) for row, y in rows for x in _steps(period)]


def _checks(period: float) -> list[Points]:
    half = period / 2
    corners = [(x + shift, y + shift) for x in _steps(period) for y in _steps(period) for shift in (0.0, half)]
    return [box(x, y, x + half, y + half) for x, y in corners]


def _zigzag(period: float) -> list[Points]:
    x = np.arange(-REACH - period, REACH + period, period * 0.6)
    offsets = np.where(np.arange(len(x)) % 2, 0.4, -0.4) * period
    upper = np.stack([x, offsets], 1)
    shape = np.concatenate([upper, upper[::-1] + (0, period * 0.5)])
    return [shape + (0, y) for y in _steps(period * 1.15)]


def _rings(period: float, panel: Panel) -> list[Points]:
    radii = np.arange(period * 0.7, 2.2, period)
    return [arc(panel.x, panel.y, radius, radius, 0, 1, period / 2) for radius in radii]


_TILED = {
    "stripes": _stripes,
    "bands": _bands,
    "diagonals": _diagonals,
    "dots": _dots,
    "checks": _checks,
    "zigzag": _zigzag,
}


def ornament(kind: str) -> list[Points]:
    """The ornament within the unit disc."""
    if kind == "ring":
        return [arc(0, 0, 0.55, 0.55, 0, 1, 0.42)]
    if kind == "cross":
        return [box(-0.26, -0.8, 0.26, 0.8), box(-0.8, -0.26, 0.8, 0.26)]
    if kind == "triangle":
        return [polygon((0, -0.88), (0.82, 0.6), (-0.82, 0.6))]
    return [_CURVED[kind]()]


def _star() -> Points:
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 0.40, 0.98)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)


def _heart() -> Points:
    t = np.arange(24) * 2 * np.pi / 24
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3 * 0.88, -y / 17 * 0.85 - 0.05], 1)


def _drop() -> Points:
    turn = np.linspace(-0.1, 0.6, 18) * 2 * np.pi
    bowl = np.stack([0.52 * np.cos(turn), 0.34 + 0.52 * np.sin(turn)], 1)
    return np.concatenate([bowl, polygon((0, -0.95))])


def _moon() -> Points:
    outer, inner = np.linspace(0.12, 0.88, 18) * 2 * np.pi, np.linspace(0.80, 0.20, 14) * 2 * np.pi
    bow = np.stack([0.15 + 0.82 * np.cos(outer), 0.82 * np.sin(outer)], 1)
    return np.concatenate([bow, np.stack([0.55 + 0.62 * np.cos(inner), 0.62 * np.sin(inner)], 1)])


_CURVED = {"star": _star, "heart": _heart, "drop": _drop, "moon": _moon}
