"""Redraw a picture in a style: each stroke is a function from pixels to pixels, float32 (H, W, 3) in 0..1."""

from functools import lru_cache

import numpy as np

from .styles import PHOTO, Style

Pixels = np.ndarray
_GREY = np.array([0.30, 0.59, 0.11], np.float32)


def stylize(image: Pixels, style: Style, seed: int) -> Pixels:
    if style == PHOTO:
        return image
    noise = np.random.default_rng(seed).standard_normal(image.shape[:2], np.float32)
    edges = _edges(image @ _GREY) if style.line else None
    image = _blur(image, style.blur)
    image = _bleed(image, style.bleed, noise)
    image = _colours(image, style)
    image = _hatch(image, style)
    if edges is not None:
        image = _blend(image, np.asarray(style.line_colour, np.float32), np.clip(edges * style.line, 0, 1))
    image = image * (1 + style.grain * 0.3 * _smooth(noise, 1)[..., None]) if style.grain else image
    image = image * (1 - style.vignette * _corners(len(image)))[..., None]
    return np.clip(_mosaic(image, style.mosaic), 0, 1)


def _blend(image: Pixels, colour: Pixels, amount: Pixels) -> Pixels:
    return image + amount[..., None] * (colour - image)


def _smooth(image: Pixels, times: int) -> Pixels:
    """A binomial blur, [1 2 1] / 4 along both axes, `times` over."""
    for _ in range(times):
        for axis in (0, 1):
            padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(image.ndim)], "edge")
            size = image.shape[axis]
            near = [padded.take(range(start, start + size), axis) for start in range(3)]
            image = (near[0] + 2 * near[1] + near[2]) / 4
    return image


def _blur(image: Pixels, amount: float) -> Pixels:
    return image if not amount else image + min(1.0, amount * 1.4) * (_smooth(image, max(1, len(image) // 40)) - image)


def _edges(grey: Pixels) -> Pixels:
    down, across = np.gradient(grey)
    return np.clip(np.hypot(down, across) * (len(grey) / 64) * 4.0 - 0.30, 0, 1)


def _bleed(image: Pixels, amount: float, noise: Pixels) -> Pixels:
    """Washes lie unevenly, and pigment gathers at their rims."""
    if not amount:
        return image
    rims = np.clip(_edges(image @ _GREY), 0, 1)
    pools = np.kron(noise[::8, ::8], np.ones((8, 8), np.float32))[: len(noise), : len(noise)]
    wash = 1 + amount * (0.10 * _smooth(pools, 3) - 0.3 * rims)
    return image * wash[..., None]


def _colours(image: Pixels, style: Style) -> Pixels:
    grey = (image @ _GREY)[..., None]
    image = np.clip(grey + style.saturation * (image - grey), 0, 1)
    if style.invert:
        image = image + style.invert * (1 - 2 * image)
        grey = 1 - grey if style.invert > 0.5 else grey
    if style.levels:
        image = np.round(image * (style.levels - 1)) / (style.levels - 1)
        grey = np.round(grey * style.levels) / style.levels
    if not style.duotone:
        return image
    shadow, highlight = np.asarray(style.shadow, np.float32), np.asarray(style.highlight, np.float32)
    contrast = np.clip((grey - 0.1) * 1.2, 0, 1)
    return image + style.duotone * (shadow + contrast * (highlight - shadow) - image)


def _hatch(image: Pixels, style: Style) -> Pixels:
    """Dark lines that grow broader where the picture is darker."""
    if not style.hatch:
        return image
    wave = _wave(len(image), style.hatch_angle, style.hatch_frequency)
    darkness = 1 - image @ _GREY
    ink = np.clip((wave + 2.2 * darkness - 1.3) * 1.5, 0, 1) * style.hatch * 0.7
    return image * (1 - ink)[..., None]


@lru_cache(maxsize=64)
def _wave(size: int, angle: float, frequency: float) -> Pixels:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    turn = np.deg2rad(angle)
    return np.cos(2 * np.pi * frequency * (y * np.cos(turn) + x * np.sin(turn))).astype(np.float32)


@lru_cache(maxsize=4)
def _corners(size: int) -> Pixels:
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    return (0.8 * np.clip(np.hypot(x, y) - 0.55, 0, 1)).astype(np.float32)


def _mosaic(image: Pixels, tiles: int) -> Pixels:
    if not tiles:
        return image
    size = len(image)
    edges = np.unique(np.arange(tiles + 1) * size // tiles)
    counts = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(image, edges[:-1], 0), edges[:-1], 1)
    means = sums / (counts[:, None] * counts)[..., None]
    tiled = means.repeat(counts, 0).repeat(counts, 1)
    tiled[edges[1:-1]] *= 0.78
    tiled[:, edges[1:-1]] *= 0.78
    return tiled
