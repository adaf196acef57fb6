"""A supersampled canvas that fills polygons given in unit coordinates (x right, y down)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .palette import Rgb

RESOLUTION = 64
SUPERSAMPLED = 4
Points = np.ndarray  # (n, 2)


def ellipse(x: float, y: float, rx: float, ry: float | None = None, sides: int = 24) -> Points:
    turn = np.arange(sides) * (2 * np.pi / sides)
    return np.stack([x + rx * np.cos(turn), y + (rx if ry is None else ry) * np.sin(turn)], 1)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, float)


def rounded(points: Points, cuts: int = 2, share: float = 0.18) -> Points:
    """Chaikin's corner cutting: every corner is replaced by two points on its edges."""
    for _ in range(cuts):
        after = np.roll(points, -1, 0)
        points = np.stack([points + share * (after - points), after - share * (after - points)], 1).reshape(-1, 2)
    return points


def band(path: Points, width: float) -> Points:
    """The outline of an open path drawn with a pen of that width."""
    along = np.gradient(path, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / (np.linalg.norm(along, axis=1, keepdims=True) + 1e-9)
    return np.concatenate([path + normal * width / 2, (path - normal * width / 2)[::-1]])


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, width: float) -> Points:
    """A band along an ellipse from angle `start` to `end`, in turns."""
    turn = np.linspace(start, end, 20) * 2 * np.pi
    return band(np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1), width)


class Part(NamedTuple):
    points: Points
    colour: Rgb


@dataclass(frozen=True)
class Pose:
    """Where a thing stands: centre and half of its size in picture units, angle in degrees, mirrored or not."""

    x: float
    y: float
    half: float
    angle: float = 0.0
    flip: bool = False

    def place(self, points: Points, mirrored: bool = True) -> Points:
        turn = np.deg2rad(self.angle)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        sign = np.array([-1.0 if self.flip and mirrored else 1.0, 1.0])
        return (points * sign) @ rotation * self.half + (self.x, self.y)


class Canvas:
    def __init__(self, mode: str = "RGB") -> None:
        self.size = RESOLUTION * SUPERSAMPLED
        self.image = Image.new(mode, (self.size, self.size))
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, points: Points, colour: Rgb) -> None:
        self.pen.polygon((points * self.size).ravel().tolist(), fill=_bytes(colour))

    def mark(self, points: Points) -> None:
        self.pen.polygon((points * self.size).ravel().tolist(), fill=255)

    def outline(self, points: Points, colour: Rgb, width: float) -> None:
        closed = np.concatenate([points, points[:2]]) * self.size
        self.pen.line(closed.ravel().tolist(), fill=_bytes(colour), width=max(1, round(width * self.size)))

    def paste(self, layer: "Canvas", mask: "Canvas") -> None:
        self.image.paste(layer.image, (0, 0), mask.image)

    def veil(self, points: Points, colour: Rgb, opacity: float) -> None:
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon((points * self.size).ravel().tolist(), fill=round(255 * opacity))
        self.image.paste(_bytes(colour), (0, 0, self.size, self.size), mask)

    def pixels(self) -> np.ndarray:
        """Averaged down to RESOLUTION, float32 in 0..1."""
        return np.asarray(self.image.reduce(SUPERSAMPLED), np.float32) / 255


def _bytes(colour: Rgb) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(max(channel, 0.0), 1.0)) for channel in colour)
    return red, green, blue
