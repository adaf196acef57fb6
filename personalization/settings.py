"""A method's own settings as people write them: `rank=16, warmup=0.1, sites=output.0.*|output.1.*, stages=1|3`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from .header import MOST_SLOTS
from .recipe import ADAMW, MUON, Recipe, Stage

WORDS = {"schedule": ("constant", "cosine"), "optimizer": (ADAMW, MUON)}
COUNTS = ("slots", "rank", "image_tokens", "bank", "class_pictures")  # from 1 on
STEPS = ("reach", "patience")  # from 0 on
WEIGHTS = ("w_mean", "w_var")  # of the attention regulariser
NUMBERS = (
    *("value_norm", "dpp", "casr", "contrast", "outside_mask", "min_snr", "weight_decay", "warmup", "strength"),
    *WEIGHTS,
)
KNOWN = (*COUNTS, *STEPS, *NUMBERS, "captions", "keeps_best", "casr_squared", *WORDS, "sites", "stages")
OF = {  # what a recipe has where the setting means something
    **dict.fromkeys(("image_tokens", "dpp", "casr", "casr_squared", "class_pictures"), "image_tokens"),
    **dict.fromkeys(("bank", "value_norm"), "bank"),
    **dict.fromkeys(("rank", "optimizer"), "rank"),
    "patience": "keeps_best",
    "contrast": "attractor",
}


def with_settings(recipe: Recipe, text: str) -> Recipe:
    """`recipe` with what `text` says; ValueError for a name, a value or a stage that its method does not have."""
    for setting in filter(None, re.split(r"[,\s]+", text.strip())):
        name, _, value = setting.partition("=")
        if name not in KNOWN:
            raise ValueError(f"There is no setting '{name}'; there are {', '.join(KNOWN)}. Write them as rank=16.")
        if not _has(recipe, name):
            missing = OF.get(name, "attention regulariser")
            belongs = "Choose the method and the role that it belongs to"
            other = "Write keeps_best=true before it" if name == "patience" else belongs
            raise ValueError(
                f"{name} is set, but the method {recipe.method} has no {missing} here, and it would change nothing. "
                f"{other}, or take {name} out."
            )
        recipe = _changed(recipe, name, value)
    return recipe


def _has(recipe: Recipe, name: str) -> bool:
    if name in WEIGHTS:
        return any(getattr(stage, name) for stage in recipe.stages)
    return name not in OF or bool(getattr(recipe, OF[name]))


def _changed(recipe: Recipe, name: str, value: str) -> Recipe:
    if name in WEIGHTS:
        weight = _number(name, value)
        return replace(recipe, stages=tuple(_weighed(stage, name, weight) for stage in recipe.stages))
    if name == "stages":
        return replace(recipe, stages=_kept(recipe.stages, value))
    if name == "slots":  # asked for, so with captions too
        recipe = replace(recipe, captioned_slots=0)
    return replace(recipe, **{name: _READ.get(name, _number)(name, value)})


def _weighed(stage: Stage, name: str, weight: float) -> Stage:
    return replace(stage, **{name: weight}) if getattr(stage, name) else stage


def _kept(stages: tuple[Stage, ...], value: str) -> tuple[Stage, ...]:
    wanted = [_whole("stages", number) for number in value.split("|")]
    if not all(1 <= number <= len(stages) for number in wanted):
        raise ValueError(
            f"stages is {value}; the method has {len(stages)}, and at least one is needed. Name those to keep, as 1|3."
        )
    return tuple(stage for number, stage in enumerate(stages, 1) if number in wanted)


def _count(name: str, value: str) -> int:
    number, most = _whole(name, value), MOST_SLOTS if name == "slots" else None
    if not number or (most and number > most):
        span = f"1 to {most}" if most else "1 or more"
        raise ValueError(f"{name} is {number}; {span} is needed. Write {name}=8.")
    return number


def _whole(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"{name} is '{value}'; a whole number is needed. Write {name}=8.")
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


def _word(name: str, value: str) -> str:
    words = WORDS[name]
    if value not in words:
        raise ValueError(f"{name} is '{value}'; {' or '.join(words)} is needed. Write {name}={words[-1]}.")
    return value


def _listed(name: str, value: str) -> tuple[str, ...]:
    return tuple(filter(None, value.split("|")))


_READ: Mapping[str, Callable[[str, str], object]] = {
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(STEPS, _whole),
    **dict.fromkeys(("captions", "keeps_best", "casr_squared"), _switch),
    **dict.fromkeys(WORDS, _word),
    "sites": _listed,
}
