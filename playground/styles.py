"""Styles: a parametric family of ways to redraw a picture, with a few named points in it."""

from dataclasses import dataclass

import numpy as np

from .palette import Rgb, luminance
from .splits import identifier, split_of


@dataclass(frozen=True)
class Style:
    """The default is the identity, which the world calls a photo."""

    duotone: float = 0.0  # 0..1, from own colours to a ramp from shadow to highlight
    shadow: Rgb = (0.0, 0.0, 0.0)
    highlight: Rgb = (1.0, 1.0, 1.0)
    saturation: float = 1.0
    levels: int = 0  # posterise, 0 = off
    line: float = 0.0  # 0..1, edges drawn
    line_colour: Rgb = (0.05, 0.05, 0.05)
    hatch: float = 0.0  # 0..1
    hatch_angle: float = 0.0  # degrees
    hatch_frequency: float = 12.0  # lines across the picture
    mosaic: int = 0  # tiles across the picture, 0 = off
    blur: float = 0.0  # 0..1
    bleed: float = 0.0  # 0..1, uneven washes and darker rims
    grain: float = 0.0  # 0..1, paper
    invert: float = 0.0  # 0..1
    vignette: float = 0.0  # 0..1


PHOTO = Style()
NAMED_STYLES = {
    "sketch": Style(
        duotone=1.0,
        shadow=(0.45, 0.45, 0.47),
        highlight=(1, 1, 0.98),
        line=1.0,
        line_colour=(0.1, 0.1, 0.12),
        hatch=0.35,
        hatch_angle=45,
        hatch_frequency=13,
        grain=0.25,
    ),
    "inkwash": Style(
        duotone=0.95,
        shadow=(0.12, 0.10, 0.09),
        highlight=(0.95, 0.89, 0.76),
        blur=0.5,
        bleed=0.9,
        grain=0.3,
        vignette=0.3,
    ),
    "neon": Style(
        saturation=1.7,
        invert=0.0,
        duotone=0.72,
        shadow=(0.0, 0.0, 0.05),
        highlight=(0.28, 0.0, 0.45),
        line=1.0,
        line_colour=(0.1, 1.0, 0.9),
        blur=0.1,
    ),
    "watercolor": Style(
        saturation=0.75, duotone=0.3, shadow=(0.55, 0.62, 0.80), highlight=(1, 1, 1), blur=0.6, bleed=0.8, grain=0.35
    ),
    "mosaic": Style(saturation=1.35, mosaic=21),
    "blueprint": Style(
        duotone=1.0,
        shadow=(0.02, 0.12, 0.42),
        highlight=(0.12, 0.32, 0.72),
        line=1.0,
        line_colour=(0.9, 0.95, 1.0),
        grain=0.1,
    ),
    "poster": Style(saturation=1.9, levels=3, line=0.5, line_colour=(0.1, 0.0, 0.1)),
    "negative": Style(invert=1.0),
    "sepia": Style(duotone=1.0, shadow=(0.20, 0.09, 0.03), highlight=(0.98, 0.84, 0.58), blur=0.2, vignette=0.8),
    "engraving": Style(
        duotone=1.0,
        shadow=(0.05, 0.15, 0.05),
        highlight=(0.86, 0.93, 0.78),
        hatch=0.9,
        hatch_angle=0,
        hatch_frequency=13,
    ),
}


def _tone(rng: np.random.Generator, low: float, high: float) -> Rgb:
    red, green, blue = rng.random(3)
    hue = np.array([red, green, blue]) - min(red, green, blue)
    hue = hue / (hue.max() + 1e-9) * (high - low) + low
    return tuple(round(float(c), 3) for c in hue)  # type: ignore[return-value]


def _sometimes(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    amount = round(float(rng.uniform(low, high)), 3)
    return amount if rng.random() < chance else 0.0


def _draw_any(rng: np.random.Generator) -> Style:
    dark = rng.random() < 0.2  # light lines on dark, like a blackboard
    return Style(
        duotone=_sometimes(rng, 0.75, 0.5, 0.95),
        shadow=_tone(rng, 0.0, 0.25 if dark else 0.45),
        highlight=_tone(rng, 0.15, 0.6) if dark else _tone(rng, 0.55, 1.0),
        saturation=round(float(rng.uniform(0.5, 1.9)), 3),
        levels=int(rng.integers(3, 6)) if rng.random() < 0.35 else 0,
        line=1.0 if dark else _sometimes(rng, 0.5, 0.5, 1.0),
        line_colour=_tone(rng, 0.7, 1.0) if dark else _tone(rng, 0.0, 0.3),
        hatch=_sometimes(rng, 0.4, 0.35, 0.7),
        hatch_angle=round(float(rng.uniform(0, 180)), 1),
        hatch_frequency=round(float(rng.uniform(8, 15)), 2),
        mosaic=int(rng.integers(20, 30)) if rng.random() < 0.15 else 0,
        blur=_sometimes(rng, 0.35, 0.2, 0.7),
        bleed=_sometimes(rng, 0.35, 0.4, 1.0),
        grain=_sometimes(rng, 0.4, 0.2, 0.7),
        invert=1.0 if not dark and rng.random() < 0.12 else 0.0,
        vignette=_sometimes(rng, 0.3, 0.4, 0.9),
    )


def _strength(style: Style) -> float:
    marks = style.duotone + style.line + 1.5 * style.hatch + style.bleed + style.invert + abs(style.saturation - 1)
    return marks + (style.levels > 0) + (style.mosaic > 0) + style.blur / 2 + style.vignette / 2 + style.grain / 2


def _legible(style: Style) -> bool:
    """Unlike a photo, but the picture survives it."""
    contrast = luminance(style.highlight) - luminance(style.shadow) if style.duotone else 1.0
    return 1.4 < _strength(style) < 4.0 and contrast > (0.25 if style.line else 0.45)


def draw_style(rng: np.random.Generator, split: str | None = None) -> Style:
    """An unnamed style, never close to a photo, that belongs to that split (else any)."""
    while True:
        style = _draw_any(rng)
        if _legible(style) and (split is None or split_of(identifier(style)) == split):
            return style


def style_words(style: Style) -> list[str]:
    """Coarse adjectives that fit the style, the most striking first."""
    words = [
        ("inverted", style.invert > 0.5),
        ("blocky", style.mosaic > 0),
        ("hatched", style.hatch > 0.3),
        ("outlined", style.line > 0.4),
        (_cast(style), style.duotone > 0.5),
        ("flat", style.levels > 0),
        ("blotchy", style.bleed > 0.4),
        ("soft", style.blur > 0.3),
        ("grainy", style.grain > 0.4),
        ("dark rimmed", style.vignette > 0.5),
        ("vivid", style.saturation > 1.4),
        ("pale", style.saturation < 0.7),
    ]
    return [word for word, fits in words if fits] or ["strange"]


def _cast(style: Style) -> str:
    tone = np.array(style.shadow) + np.array(style.highlight)
    if style.invert > 0.5:
        tone = 2 - tone
    red, green, blue = tone - tone.min() > 0.5 * np.ptp(tone)
    names = {(1, 0, 0): "reddish", (0, 1, 0): "greenish", (0, 0, 1): "bluish"}
    names |= {(1, 1, 0): "yellowish", (0, 1, 1): "tealish", (1, 0, 1): "purplish"}
    return names.get((int(red), int(green), int(blue)), "greyish")
