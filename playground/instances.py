"""Instances: one particular mug, with its ten independent factors."""

from dataclasses import dataclass, replace

import numpy as np

from .palette import Colour, colour_named, draw_colour
from .patterns import ORNAMENTS, PATTERNS, PLACES
from .shapes import DETAILS, SHAPES
from .splits import identifier, split_of

CLASSES = tuple(SHAPES)


@dataclass(frozen=True)
class Instance:
    class_name: str
    taper: float  # 0..1, outline
    build: float  # 0..1, outline
    primary: Colour
    secondary: Colour
    pattern: str
    frequency: float  # 0..1, few to many
    ornament: str
    ornament_colour: Colour
    place: str
    detail: str


FACTORS = tuple(Instance.__dataclass_fields__)[1:]


def _choose(rng: np.random.Generator, names: tuple[str, ...], but: str = "") -> str:
    names = tuple(name for name in names if name != but)
    return names[rng.integers(len(names))]


def _number(rng: np.random.Generator) -> float:
    return round(float(rng.random()), 4)


def _far(rng: np.random.Generator, value: float, at_least: float = 0.45) -> float:
    while True:
        other = _number(rng)
        if abs(other - value) >= at_least:
            return other


def _draw_any(rng: np.random.Generator, class_name: str) -> Instance:
    primary = draw_colour(rng)
    secondary = draw_colour(rng, (primary,))
    return Instance(
        class_name=class_name,
        taper=_number(rng),
        build=_number(rng),
        primary=primary,
        secondary=secondary,
        pattern=_choose(rng, PATTERNS),
        frequency=_number(rng),
        ornament=_choose(rng, ORNAMENTS),
        ornament_colour=draw_colour(rng, (primary, secondary)),
        place=_choose(rng, tuple(PLACES)),
        detail=_choose(rng, DETAILS[class_name]),
    )


def draw_instance(rng: np.random.Generator, class_name: str | None = None, split: str | None = None) -> Instance:
    """An instance of that class (else any) that belongs to that split (else any)."""
    class_name = class_name or _choose(rng, CLASSES)
    while True:
        instance = _draw_any(rng, class_name)
        if split is None or split_of(identifier(instance)) == split:
            return instance


def namesake(instance: Instance, rng: np.random.Generator) -> Instance:
    """Another instance that `describe` would give the same words."""
    primary, secondary = (colour_named(one.name, rng) for one in (instance.primary, instance.secondary))
    return replace(
        _draw_any(rng, instance.class_name),
        primary=primary,
        secondary=secondary,
        pattern=instance.pattern,
        ornament=instance.ornament,
        ornament_colour=draw_colour(rng, (primary, secondary)),
    )


def vary(instance: Instance, factor: str, rng: np.random.Generator) -> Instance:
    """A copy in which exactly that factor has changed, by an amount one can see."""
    value = getattr(instance, factor)
    if isinstance(value, Colour):
        colours = (instance.primary, instance.secondary, instance.ornament_colour)
        return replace(instance, **{factor: draw_colour(rng, colours)})
    if isinstance(value, float):
        return replace(instance, **{factor: _far(rng, value)})
    names = {"pattern": PATTERNS, "ornament": ORNAMENTS, "place": tuple(PLACES), "detail": DETAILS[instance.class_name]}
    return replace(instance, **{factor: _choose(rng, names[factor], but=value)})
