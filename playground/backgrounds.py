"""Backgrounds: a few flat shapes each, jittered by a seed."""

import numpy as np

from .canvas import Canvas, box, ellipse, polygon

PHRASES = {
    "beach": "on the beach",
    "forest": "in the forest",
    "city": "in the city",
    "kitchen": "in the kitchen",
    "snow": "in the snow",
    "desert": "in the desert",
    "night": "at night",
    "meadow": "in the meadow",
}
BACKGROUNDS = tuple(PHRASES)


def paint_background(canvas: Canvas, name: str, seed: int) -> None:
    _PAINTERS[name](canvas, np.random.default_rng(seed))


def _band(canvas: Canvas, top: float, bottom: float, colour: tuple[float, float, float]) -> None:
    canvas.fill(box(-0.01, top, 1.01, bottom), colour)


def _beach(canvas: Canvas, rng: np.random.Generator) -> None:
    sea, sand = rng.uniform(0.26, 0.36), rng.uniform(0.52, 0.62)
    _band(canvas, 0, sea, (0.66, 0.87, 0.97))
    canvas.fill(ellipse(rng.uniform(0.1, 0.9), 0.12, 0.09), (1.0, 0.93, 0.55))
    _band(canvas, sea, sand, (0.16, 0.56, 0.72))
    for x in rng.uniform(0, 1, 3):
        canvas.fill(box(x - 0.09, sea + 0.08, x + 0.09, sea + 0.10), (0.80, 0.93, 0.96))
    _band(canvas, sand - 0.02, sand + 0.02, (0.93, 0.97, 0.97))
    _band(canvas, sand + 0.02, 1, (0.93, 0.83, 0.60))


def _forest(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.66, 0.76)
    _band(canvas, 0, ground, (0.42, 0.58, 0.42))
    for x in np.arange(-0.02, 1.1, 0.19) + rng.uniform(-0.05, 0.05, 6):
        canvas.fill(box(x - 0.035, 0, x + 0.035, ground + 0.05), (0.36, 0.27, 0.19))
    for x in np.arange(0, 1.1, 0.2) + rng.uniform(-0.06, 0.06, 6):
        canvas.fill(ellipse(x, rng.uniform(0.0, 0.12), 0.17, 0.14), (0.13, 0.36, 0.20))
    _band(canvas, ground, 1, (0.27, 0.37, 0.18))


def _city(canvas: Canvas, rng: np.random.Generator) -> None:
    _band(canvas, 0, 0.8, (0.86, 0.85, 0.88))
    for x in np.arange(0, 1, 0.2):
        top, grey = rng.uniform(0.08, 0.4), rng.uniform(0.48, 0.64)
        canvas.fill(box(x + 0.01, top, x + 0.19, 0.8), (grey, grey * 0.96, grey * 1.04))
        for row in np.arange(top + 0.05, 0.7, 0.12):
            for column in (x + 0.045, x + 0.115):
                canvas.fill(box(column, row, column + 0.045, row + 0.05), (0.93, 0.86, 0.60))
    _band(canvas, 0.78, 1, (0.36, 0.36, 0.39))
    for x in np.arange(rng.uniform(-0.2, 0), 1, 0.27):
        canvas.fill(box(x, 0.88, x + 0.14, 0.905), (0.90, 0.90, 0.86))


def _kitchen(canvas: Canvas, rng: np.random.Generator) -> None:
    counter, shift = rng.uniform(0.64, 0.74), rng.uniform(0, 0.16)
    _band(canvas, 0, counter, (0.96, 0.90, 0.78))
    for x in np.arange(shift - 0.16, 1.1, 0.16):
        canvas.fill(box(x, 0, x + 0.012, counter), (0.80, 0.70, 0.58))
    for y in np.arange(counter - 0.16, 0, -0.16):
        _band(canvas, y, y + 0.012, (0.80, 0.70, 0.58))
    _band(canvas, counter, counter + 0.05, (0.44, 0.26, 0.15))
    _band(canvas, counter + 0.05, 1, (0.68, 0.45, 0.28))
    canvas.fill(box(rng.uniform(0.2, 0.6), counter + 0.17, 0.8, counter + 0.19), (0.44, 0.26, 0.15))


def _snow(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.54, 0.64)
    _band(canvas, 0, 1, (0.72, 0.79, 0.88))
    for x in rng.uniform(0, 1, 2):
        canvas.fill(polygon((x - 0.4, ground), (x, rng.uniform(0.15, 0.3)), (x + 0.4, ground)), (0.56, 0.64, 0.76))
    _band(canvas, ground, 1, (0.95, 0.97, 1.0))
    for x, y in rng.uniform(0, 1, (26, 2)):
        canvas.fill(ellipse(x, y * 0.95, 0.016, sides=8), (1.0, 1.0, 1.0))


def _desert(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.46, 0.56)
    _band(canvas, 0, ground, (0.98, 0.72, 0.44))
    canvas.fill(ellipse(rng.uniform(0.15, 0.85), 0.2, 0.10), (1.0, 0.94, 0.74))
    x = rng.uniform(0.2, 0.8)
    _band(canvas, ground, 1, (0.84, 0.50, 0.28))
    canvas.fill(ellipse(x, ground + 0.05, 0.5, 0.11), (0.76, 0.42, 0.22))
    canvas.fill(ellipse(1.1 - x, 1.03, 0.7, 0.2), (0.90, 0.58, 0.34))
    for cactus in (rng.uniform(0.03, 0.12), rng.uniform(0.88, 0.97)):
        canvas.fill(box(cactus - 0.022, ground - 0.16, cactus + 0.022, ground + 0.1), (0.30, 0.47, 0.26))
        canvas.fill(box(cactus - 0.06, ground - 0.07, cactus + 0.06, ground - 0.03), (0.30, 0.47, 0.26))


def _night(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.72, 0.80)
    _band(canvas, 0, ground, (0.09, 0.10, 0.27))
    for x, y in rng.uniform(0, 1, (22, 2)):
        canvas.fill(ellipse(x, y * ground, 0.011, sides=8), (0.95, 0.95, 0.80))
    x = rng.uniform(0.12, 0.88)
    canvas.fill(ellipse(x, 0.15, 0.09), (0.96, 0.94, 0.78))
    canvas.fill(ellipse(x + 0.045, 0.13, 0.075), (0.09, 0.10, 0.27))
    _band(canvas, ground, 1, (0.05, 0.05, 0.13))


def _meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    ground = rng.uniform(0.36, 0.46)
    _band(canvas, 0, ground + 0.1, (0.58, 0.82, 0.98))
    for x in rng.uniform(0.1, 0.9, 2):
        canvas.fill(ellipse(x, rng.uniform(0.08, 0.2), 0.14, 0.05), (0.97, 0.98, 1.0))
    canvas.fill(ellipse(rng.uniform(0.1, 0.9), ground + 0.24, 0.7, 0.27), (0.46, 0.72, 0.32))
    _band(canvas, ground + 0.08, 1, (0.54, 0.79, 0.36))
    for x, y in rng.uniform(0, 1, (16, 2)):
        colour = ((0.98, 0.92, 0.96), (0.98, 0.88, 0.35), (0.93, 0.45, 0.58))[int(rng.integers(3))]
        canvas.fill(ellipse(x, ground + 0.14 + y * 0.5, 0.019, sides=8), colour)


_PAINTERS = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "kitchen": _kitchen,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "meadow": _meadow,
}
