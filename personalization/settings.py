"""A method's own settings as people write them: `rank=16, value_norm=2, sites=output.0.*|output.1.*, stages=1|3`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from .recipe import Recipe, Stage

SCHEDULES = ("constant", "cosine")
WHOLE = ("slots", "rank", "image_tokens", "bank", "class_pictures", "reach", "patience")
NUMBERS = (
    *("value_norm", "dpp", "casr", "contrast", "outside_mask", "min_snr", "weight_decay", "warmup"),
    *("w_mean", "w_var", "strength"),
)
KNOWN = (*WHOLE, *NUMBERS, "casr_squared", "schedule", "sites", "stages")


def with_settings(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with what `text` says; ValueError for a name, a value or a stage that there is not."""
    for setting in filter(None, re.split(r"[,\s]+", text.strip())):
        name, _, value = setting.partition("=")
        if name not in KNOWN:
            raise ValueError(f"There is no setting '{name}'; there are {', '.join(KNOWN)}. Write them as rank=16.")
        recipe = _changed(recipe, name, value)
    return recipe


def _changed(recipe: Recipe, name: str, value: str) -> Recipe:
    if name in ("w_mean", "w_var"):  # where a stage has the attention regulariser
        weight = _number(name, value)
        return replace(recipe, stages=tuple(_weighed(stage, name, weight) for stage in recipe.stages))
    if name == "stages":
        return replace(recipe, stages=_kept(recipe.stages, value))
    read: Callable[[str, str], object] = _number
    if name in WHOLE:
        read = _whole
    elif name == "casr_squared":
        read = _switch
    elif name == "schedule":
        read = _schedule
    elif name == "sites":
        read = _listed
    return replace(recipe, **{name: read(name, value)})


def _weighed(stage: Stage, name: str, weight: float) -> Stage:
    return replace(stage, **{name: weight}) if getattr(stage, name) else stage


def _kept(stages: tuple[Stage, ...], value: str) -> tuple[Stage, ...]:
    wanted = [_whole("stages", number) for number in value.split("|")]
    if not all(1 <= number <= len(stages) for number in wanted):
        raise ValueError(
            f"stages is {value}; the method has {len(stages)}, and at least one is needed. Name those to keep, as 1|3."
        )
    return tuple(stage for number, stage in enumerate(stages, 1) if number in wanted)


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{name} is '{value}'; a whole number from 0 on is needed. Write {name}=8.")
    return int(value)


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} is '{value}'; a number from 0 on is needed. Write {name}=0.5.")
    return number


def _switch(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{name} is '{value}'; true or false is needed. Write {name}=true.")
    return value == "true"


def _schedule(name: str, value: str) -> str:
    if value not in SCHEDULES:
        raise ValueError(f"{name} is '{value}'; {' or '.join(SCHEDULES)} is needed. Write {name}=cosine.")
    return value


def _listed(name: str, value: str) -> tuple[str, ...]:
    return tuple(filter(None, value.split("|")))
