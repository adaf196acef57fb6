"""Captions: coarse words for a scene, some of them left out at random."""

from dataclasses import dataclass

import numpy as np

from .backgrounds import PHRASES
from .instances import Instance
from .scenes import Scene
from .styles import style_words

PLACED = {
    "left": "on the left",
    "right": "on the right",
    "center": "in the center",
    "top": "at the top",
    "bottom": "at the bottom",
}
_ALWAYS = 1.0


@dataclass(frozen=True)
class Mentions:
    """How probably each thing is named."""

    colour: float = 0.75
    pattern: float = 0.40
    ornament: float = 0.30
    background: float = 0.85
    position: float = 0.70
    companion: float = 0.95
    style: float = 0.95
    unnamed_style: float = 0.70
    photo: float = 0.60
    light: float = 0.50


EVERYTHING = Mentions(*[_ALWAYS] * 10)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    return _caption(scene, rng, Mentions())


def full_caption(scene: Scene) -> str:
    """Every coarse word, in the first word order."""
    return _caption(scene, None, EVERYTHING)


def describe(instance: Instance) -> str:
    """The coarse noun phrase: "light blue mug with red stripes and a star"."""
    return _noun_phrase(instance, None, EVERYTHING)


def compose_caption(
    noun_phrase: str,
    *,
    background: str | None = None,
    position: str | None = None,
    companion: str | None = None,
    style: str = "photo",
) -> str:
    """A prompt such as "a photo of <mug> on the beach, on the left, next to a ball"."""
    scenery = f"{noun_phrase} {PHRASES[background]}" if background else noun_phrase
    opening = "a photo of " if style == "photo" else ""
    parts = [opening + scenery]
    parts += [PLACED[position]] if position else []
    parts += [f"next to {article(companion)}"] if companion not in (None, "none") else []
    parts += [f"{style} style"] if style != "photo" else []
    return ", ".join(parts)


def article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _says(rng: np.random.Generator | None, chance: float) -> bool:
    return chance > 0 and (rng is None or rng.random() < chance)


def _noun_phrase(instance: Instance, rng: np.random.Generator | None, mentions: Mentions) -> str:
    colour = f"{instance.primary.name} " if _says(rng, mentions.colour) else ""
    extras = []
    if _says(rng, mentions.pattern):
        extras.append(_pattern_phrase(instance))
    if _says(rng, mentions.ornament):
        extras.append(article(instance.ornament))
    noun = colour + instance.class_name
    return f"{noun} with {' and '.join(extras)}" if extras else noun


def _pattern_phrase(instance: Instance) -> str:
    if instance.pattern == "dipped":
        return f"{article(instance.secondary.name)} bottom"
    return f"{instance.secondary.name} {instance.pattern}"


def _subjects(scene: Scene, rng: np.random.Generator | None, mentions: Mentions) -> str:
    first = article(_noun_phrase(scene.subject.instance, rng, mentions))
    if scene.second is None:
        return first
    second = article(_noun_phrase(scene.second.instance, rng, mentions))
    placed = _says(rng, mentions.position)
    side = {"left": ("on the left", "on the right"), "right": ("on the right", "on the left")}[scene.position]
    return f"{first} {side[0]} and {second} {side[1]}" if placed else f"{first} and {second}"


def _clauses(scene: Scene, rng: np.random.Generator | None, mentions: Mentions) -> list[str]:
    clauses = []
    if scene.second is None and _says(rng, mentions.position):
        clauses.append(PLACED[scene.position])
    if scene.companion and _says(rng, mentions.companion):
        clauses.append(f"next to {article(scene.companion.name)}")
    light = light_word(scene)
    if light and _says(rng, mentions.light):
        clauses.append(f"in {light} light")
    return clauses


def light_word(scene: Scene) -> str:
    brightness = scene.light.brightness
    return "bright" if brightness > 1.14 else "dim" if brightness < 0.80 else ""


def _look(scene: Scene, rng: np.random.Generator | None, mentions: Mentions) -> str:
    if scene.style_name == "photo":
        return "photo" if _says(rng, mentions.photo) else ""
    if scene.style_name != "unnamed":
        return f"{scene.style_name} style" if _says(rng, mentions.style) else ""
    return f"{' '.join(style_words(scene.style)[:2])} style" if _says(rng, mentions.unnamed_style) else ""


def _caption(scene: Scene, rng: np.random.Generator | None, mentions: Mentions) -> str:
    subjects = _subjects(scene, rng, mentions)
    background = PHRASES[scene.background] if _says(rng, mentions.background) else ""
    clauses = _clauses(scene, rng, mentions)
    look = _look(scene, rng, mentions)
    order = 0 if rng is None else int(rng.integers(4))
    if order == 2:
        clauses = clauses[::-1]
    if order == 3 and background:
        clauses, background = [*clauses, background], ""
    return _assemble(f"{subjects} {background}".strip(), clauses, look, early=order == 1)


def _assemble(scenery: str, clauses: list[str], look: str, early: bool) -> str:
    if look == "photo":
        return ", ".join([f"a photo of {scenery}", *clauses])
    if look and early:
        return ", ".join([f"{article(look.removesuffix(' style'))} picture of {scenery}", *clauses])
    return ", ".join([scenery, *clauses, *([look] if look else [])])


@dataclass(frozen=True)
class Setting:
    """What a prompt asks of a concept besides the concept itself."""

    background: str
    position: str
    companion: str
    style: str

    def caption(self, noun_phrase: str) -> str:
        return compose_caption(
            noun_phrase,
            background=self.background,
            position=self.position,
            companion=self.companion,
            style=self.style,
        )


PROMPTS = (
    Setting("beach", "left", "none", "photo"),
    Setting("forest", "right", "none", "photo"),
    Setting("snow", "center", "none", "photo"),
    Setting("city", "top", "none", "photo"),
    Setting("kitchen", "left", "ball", "photo"),
    Setting("meadow", "right", "candle", "photo"),
    Setting("night", "bottom", "none", "photo"),
    Setting("desert", "center", "plant", "photo"),
    Setting("beach", "center", "none", "sketch"),
    Setting("forest", "left", "none", "neon"),
    Setting("city", "right", "none", "watercolor"),
    Setting("snow", "left", "apple", "blueprint"),
    Setting("kitchen", "center", "none", "mosaic"),
    Setting("meadow", "top", "none", "inkwash"),
)
