"""`bench compose`: a subject and a style, learned apart from five pictures each, woven in one prompt.

Kept are the crop's identity and the picture's style where their likeness to real pictures is above the judge's own
equal-error threshold. The peer is two of ComfyUI's Train LoRA, stacked, with rate and strength tuned as in `methods`.
Rows with captions learn from pictures that say what they show: of the subject where it is, of the style what it is of.
Captions are written, or the model's own (Caption Pictures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.patch import weave_model
from ..personalization.composition import as_recommended
from ..personalization.concept import Concept
from ..personalization.dataset import dataset_of
from ..personalization.pictures import Picture
from ..personalization.recipe import Recipe
from ..personalization.scores import likeness
from ..playground.judge import load_judge
from ..playground.model import WEIGHTS, load
from ..playground.scores import kept
from ..playground.world import PROMPTS, Scene, Setting, Style, describe, draw_instance, draw_scene, draw_style, render
from .core_lora import RARE, Lesson, Lora, tuned
from .judging import QUICK, figures
from .kept import Kept
from .made import Captions, learned_by, learned_subject, reading, recipe_key, timed
from .methods import SECONDS
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import SPLIT, TRAINING, Case, Sampled, Tunnel, cases, setting_of

METHODS = {
    f"{method}{captions.value}": (method, captions)
    for method, captions in (("quick", Captions.NONE), *(("staged fast", captions) for captions in Captions))
}
LORAS = {f"two_loras{captions.value}": captions for captions in (Captions.NONE, Captions.WRITTEN)}
PAIRS, QUICK_PAIRS = 8, 3
LOOK, RARE_LOOK = "look", "zxv"
SHOWN = 8  # real pictures of a style to compare with


class Captioned(NamedTuple):
    setting: Setting
    noun: str  # all coarse words for what is in it


@dataclass(frozen=True)
class Pair:
    """A subject, a style without a name, and pictures of the style: to learn from and to compare with."""

    case: Case
    style: Style
    training: Tensor  # uint8 (n, h, w, 3)
    real: Tensor
    shown: tuple[Captioned, ...]  # what the training pictures show

    def captions(self, look: str) -> tuple[str, ...]:
        """What each training picture shows, as a user would write it, in the style `look`."""
        return tuple(replace(one.setting, style=look).caption(one.noun) for one in self.shown)


class Thresholds(NamedTuple):
    identity: float
    style: float


def pairs(count: int, world_seed: int) -> list[Pair]:
    subjects = enumerate(_subjects(count, world_seed))
    return [_pair(case, np.random.default_rng([world_seed, number, 41])) for number, case in subjects]


def _subjects(count: int, world_seed: int) -> list[Case]:
    settings = [replace(setting, companion="none", style=f"<{LOOK}>") for setting in PROMPTS[:4]]
    return [replace(case, settings=tuple(settings)) for case in cases(count, world_seed)]


def _pair(case: Case, rng: np.random.Generator) -> Pair:
    style = draw_style(rng, SPLIT)
    scenes = [_in_style(rng, style, case.class_word) for _ in range(TRAINING + SHOWN)]
    pictures = torch.from_numpy(np.stack([render(scene).image for scene in scenes]))
    shown = tuple(Captioned(setting_of(scene), describe(scene.subject.instance)) for scene in scenes[:TRAINING])
    return Pair(case, style, pictures[:TRAINING], pictures[TRAINING:], shown)


def _in_style(rng: np.random.Generator, style: Style, but: str) -> Scene:
    """Anything but the class: else the style would bring the subject along."""
    while (subject := draw_instance(rng, split=SPLIT)).class_name == but:
        pass
    return draw_scene(rng, subject=subject, second="none", style=style, split=SPLIT)


def recipes(method: str) -> tuple[Recipe, Recipe]:
    """For a subject and for a style."""
    name, captions = METHODS[method]
    return reading(timed(name, SECONDS), captions), timed(name, SECONDS, "style")


class Bench:
    def __init__(self, world_seed: int, quick: bool, weights: Path, kept: Kept) -> None:
        self.world_seed = world_seed
        self.tunnel = Tunnel(load(weights), load_judge("first", weights), kept=kept)
        self.pairs = pairs(QUICK_PAIRS if quick else PAIRS, world_seed)

    def thresholds(self) -> Thresholds:
        found = figures(self.tunnel.judge, self.tunnel.through, QUICK, self.world_seed)
        return Thresholds(found.styled_identity_threshold, found.style_threshold)

    def ours(self, method: str, limits: Thresholds) -> dict[str, float]:
        return self._scores([self._woven(pair, method) for pair in self.pairs], limits)

    def two_loras(self, captioned: bool, limits: Thresholds) -> dict[str, float]:
        lora = tuned(self.tunnel, self.world_seed, SECONDS, PROMPTS[:4], captioned)
        return self._scores([self._stacked(pair, lora) for pair in self.pairs], limits)

    def _woven(self, pair: Pair, method: str) -> Sampled:
        (_, captions), (of_subject, of_style) = METHODS[method], recipes(method)
        subject = learned_subject(of_subject, self.tunnel, pair.case, captions)
        composition = (as_recommended(subject), as_recommended(self._style(pair, of_style, captions)))
        model = weave_model(self.tunnel.playground.model, composition)
        clip = weave_clip(self.tunnel.playground.clip, composition)
        return self.tunnel.sample(pair.case, f"<{subject.info.placeholder}>", model, clip)

    def _style(self, pair: Pair, recipe: Recipe, captions: Captions) -> Concept:
        written = pair.captions("{}") if captions is Captions.WRITTEN else [""] * len(pair.training)
        shown = zip(pair.training, written, strict=True)
        dataset = dataset_of([Picture(f"{i}", pixels, caption=said) for i, (pixels, said) in enumerate(shown)])
        return learned_by(recipe, self.tunnel, dataset, (LOOK, "", "style"), pair.case.seed, captions)

    def _stacked(self, pair: Pair, lora: Lora) -> Sampled:
        subject = lora.train(self.tunnel, pair.case).weights
        prompts = pair.captions(RARE_LOOK) if lora.captioned else (f"a picture in {RARE_LOOK} style",)
        lesson = Lesson(pair.training, prompts, pair.case.seed)
        style = lora.trained(self.tunnel, lesson).weights
        model = lora.on(lora.on(self.tunnel.playground.model, subject), style)
        settings = tuple(replace(setting, style=RARE_LOOK) for setting in pair.case.settings)
        return self.tunnel.sample(replace(pair.case, settings=settings), f"{RARE} {pair.case.class_word}", model)

    def _scores(self, made: list[Sampled], limits: Thresholds) -> dict[str, float]:
        judge, through = self.tunnel.judge, self.tunnel.through
        subject, style = [], []
        for pair, sampled in zip(self.pairs, made, strict=True):
            images = sampled.images.flatten(0, 1)
            own, look = judge.identity(through(pair.case.held_out)), judge.style(through(pair.real))
            subject.append(kept(likeness(judge.identity(images), own), limits.identity))
            style.append(kept(likeness(judge.style(images), look), limits.style))
        subjects, styles = torch.cat(subject).float(), torch.cat(style).float()
        shares = {"subject": subjects, "style": styles, "both": subjects * styles}
        return {name: round(float(share.mean()), 4) for name, share in shares.items()}


def main(argv: list[str]) -> int:
    wanted = arguments("compose", learns=True).parse_args(argv)
    bench = Bench(wanted.world_seed, wanted.quick, wanted.weights or WEIGHTS, Kept(wanted.learned))
    about = {"bench": "compose", "world_seed": wanted.world_seed, "quick": wanted.quick}
    about["recipes"] = recipe_key(*chain.from_iterable(map(recipes, METHODS)))
    table = Table(wanted.json, {**about, "weights": fingerprint(wanted.weights or WEIGHTS)})
    limits = Thresholds(*table.once("thresholds", bench.thresholds))
    for method in METHODS:
        table.once(method, lambda method=method: bench.ours(method, limits))
    for name, captions in LORAS.items():
        table.entry("peers", name, lambda captions=captions: bench.two_loras(captions is Captions.WRITTEN, limits))
    table.values["subject_style"] = max((table.values[method] for method in METHODS), key=lambda one: one["both"])
    table.write()
    show(table.values)
    return 0


def show(values: dict) -> None:
    rows = {**{method: values[method] for method in METHODS}, **values["peers"]}
    print_table(("woven", "subject", "style", "both"), [(name, *shares.values()) for name, shares in rows.items()])
