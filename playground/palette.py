"""Named colours as boxes in HSV; an instance's colour is a point inside one of them."""

from colorsys import hsv_to_rgb
from dataclasses import dataclass
from math import dist

import numpy as np

Rgb = tuple[float, float, float]
Bounds = tuple[float, float]

# name: hue (may exceed 1: it wraps), saturation, value
RANGES: dict[str, tuple[Bounds, Bounds, Bounds]] = {
    "red": ((0.98, 1.01), (0.80, 1.00), (0.72, 0.92)),
    "orange": ((0.065, 0.095), (0.85, 1.00), (0.92, 1.00)),
    "yellow": ((0.14, 0.165), (0.70, 0.95), (0.92, 1.00)),
    "green": ((0.31, 0.38), (0.70, 0.95), (0.45, 0.65)),
    "turquoise": ((0.47, 0.50), (0.65, 0.90), (0.70, 0.85)),
    "light blue": ((0.54, 0.58), (0.30, 0.48), (0.92, 1.00)),
    "blue": ((0.61, 0.65), (0.80, 1.00), (0.65, 0.90)),
    "purple": ((0.75, 0.79), (0.60, 0.85), (0.45, 0.65)),
    "pink": ((0.90, 0.94), (0.35, 0.50), (0.95, 1.00)),
    "brown": ((0.05, 0.075), (0.60, 0.75), (0.35, 0.46)),
    "white": ((0.00, 1.00), (0.00, 0.05), (0.94, 1.00)),
    "black": ((0.00, 1.00), (0.00, 0.20), (0.08, 0.16)),
}
COLOURS = tuple(RANGES)
APART = 0.5  # RGB distance two colours need to be told apart on a few pixels


@dataclass(frozen=True)
class Colour:
    name: str
    hue: float
    saturation: float
    value: float

    @property
    def rgb(self) -> Rgb:
        return hsv_to_rgb(self.hue, self.saturation, self.value)


def luminance(rgb: Rgb) -> float:
    return 0.30 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def draw_colour(rng: np.random.Generator, avoid: tuple[Colour, ...] = ()) -> Colour:
    """A colour whose name and appearance differ from those in `avoid`."""
    while True:
        colour = colour_named(COLOURS[rng.integers(len(COLOURS))], rng)
        if all(other.name != colour.name and dist(other.rgb, colour.rgb) > APART for other in avoid):
            return colour


def colour_named(name: str, rng: np.random.Generator) -> Colour:
    hue, saturation, value = (float(rng.uniform(*bounds)) for bounds in RANGES[name])
    return Colour(name, round(hue % 1, 4), round(saturation, 4), round(value, 4))
