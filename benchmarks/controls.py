"""`bench controls`: do the scores say what they should where the truth is known beforehand?

A concept of another instance, or of pictures of many instances, scores at the floor; a memorised picture trips the
copy alarm; orderings that the field knows hold, or are reported broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..personalization.composition import as_recommended
from ..personalization.methods import AUTO, chosen
from ..playground.judge import load_judge
from ..playground.model import WEIGHTS, load
from ..playground.scores import leaks
from ..playground.world import CLASSES, PROMPTS, draw_instance, draw_scene, render
from .kept import Kept
from .made import drawn, learned_subject, recipe_key, taking
from .statistics import closed_share
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import SPLIT, TRAINING, Case, Sampled, Tunnel, cases

METHOD, STEPS, LONG = chosen(AUTO, "subject", TRAINING), 60, 240
INSTANCES, QUICK_INSTANCES = 6, 3
SETTINGS = PROMPTS[:5]  # photographs: their identity is the clearest
NOISE = 2.0  # of 255, on a memorised picture


class Controls:
    def __init__(self, world_seed: int, quick: bool, weights: Path, kept: Kept) -> None:
        self.tunnel = Tunnel(load(weights), load_judge("first", weights), 1, kept)
        count = QUICK_INSTANCES if quick else INSTANCES
        known = cases(len(CLASSES) + count, world_seed, SETTINGS)
        self.cases, self.mates = known[:count], known[len(CLASSES) :]  # mates are of the same classes
        self.rng = np.random.default_rng([world_seed, 31])

    @cached_property
    def floor(self) -> np.ndarray:
        return self._identity(self.cases, [self.tunnel.sample(case, case.class_word) for case in self.cases])

    @cached_property
    def ceiling(self) -> np.ndarray:
        return np.array([self.tunnel.ceiling(case).identity for case in self.cases])

    def closed(self, learned_from: Sequence[Case]) -> float:
        """How far a concept of those pictures comes on these cases' own pictures."""
        made = [self.sampled(case, other) for case, other in zip(self.cases, learned_from, strict=True)]
        return round(closed_share(self._identity(self.cases, made), self.floor, self.ceiling).mean, 4)

    def sampled(self, case: Case, learned_from: Case, steps: int = STEPS) -> Sampled:
        concept = learned_subject(taking(METHOD, steps), self.tunnel, learned_from)
        return drawn(as_recommended(concept), self.tunnel, case)

    def _identity(self, cases: Sequence[Case], made: Sequence[Sampled]) -> np.ndarray:
        return np.array([self.tunnel.score(*pair).identity for pair in zip(cases, made, strict=True)])

    def shuffled(self) -> list[Case]:
        """Every picture of another instance of the class."""
        return [replace(case, training=self._pictures(case, many=True)) for case in self.cases]

    def one_background(self) -> list[Case]:
        return [replace(case, training=self._pictures(case, background="beach")) for case in self.cases]

    def _pictures(self, case: Case, many: bool = False, background: str | None = None) -> Tensor:
        mates = [draw_instance(self.rng, case.class_word, SPLIT) if many else case.instance for _ in range(TRAINING)]
        drawn = [
            draw_scene(self.rng, subject=one, second="none", style="photo", background=background, split=SPLIT)
            for one in mates
        ]
        return torch.from_numpy(np.stack([render(scene).image for scene in drawn]))

    def copies(self, memorised: bool) -> float:
        """Share of alarms: on training pictures after the VAE with a little noise, or on real ones of the prompts."""
        alarms = []
        for case in self.cases:
            shown = self.tunnel.through(case.training if memorised else case.real)
            noisy = shown.float() + NOISE * torch.from_numpy(self.rng.standard_normal(shown.shape)).float()
            made = Sampled(noisy.round().clamp(0, 255).byte()[:, None], case.settings[:1] * len(shown))
            alarms.append(self.tunnel.score(case, made).copies)
        return round(float(np.mean(alarms)), 4)

    def overtraining(self) -> dict:
        """Four times the learning may cost attributes; that it costs neither these nor identity is our goal."""
        scored = {
            s: [self.tunnel.score(case, self.sampled(case, case, s)) for case in self.cases] for s in (STEPS, LONG)
        }
        means = {
            name: [round(float(np.mean([getattr(one, name) for one in every])), 4) for every in scored.values()]
            for name in ("attributes", "identity")
        }
        usual, long = means["attributes"]
        return {"holds": long < usual, **means, "steps": [STEPS, LONG]}

    def leaking(self) -> dict:
        """Pictures with one background only teach it: it is seen more often where the prompt asks for another."""
        shares = [self._beach(cases) for cases in (self.one_background(), self.cases)]
        return {"holds": shares[0] > shares[1], "leak": [round(share, 4) for share in shares]}

    def _beach(self, learned_from: Sequence[Case]) -> float:
        made = [self.sampled(case, other) for case, other in zip(self.cases, learned_from, strict=True)]
        asked = [setting.background for setting in SETTINGS]
        seen = [leaks(self.tunnel.judge.attributes(one.images.flatten(0, 1)), asked, "beach") for one in made]
        return float(torch.cat(seen).nanmean())


def from_rows(path: Path | None, about: dict) -> dict | None:
    """Textual inversion below LoRA in identity, from the rows of `bench methods` in this world on this model."""
    found: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {"rows": []}
    rows = {row["method"]: row for row in found["rows"]}
    if not {"textual inversion", "core Train LoRA"} <= set(rows):
        return None
    if any(found["about"][name] != about[name] for name in ("world_seed", "weights")):
        return None
    below, above = (rows[name]["identity"] for name in ("textual inversion", "core Train LoRA"))
    return {"holds": below < above, "identity": [below, above]}


def main(argv: list[str]) -> int:
    parser = arguments("controls", learns=True)
    parser.add_argument("--methods", type=Path, help="the JSON of `bench methods`, for the orderings of its rows")
    wanted = parser.parse_args(argv)
    controls = Controls(wanted.world_seed, wanted.quick, wanted.weights or WEIGHTS, Kept(wanted.learned))
    about = {"bench": "controls", "world_seed": wanted.world_seed, "quick": wanted.quick}
    about["recipe"] = recipe_key(taking(METHOD, STEPS))
    table = Table(wanted.json, {**about, "weights": fingerprint(wanted.weights or WEIGHTS)})
    table.once("own_closed", lambda: controls.closed(controls.cases))
    table.once("other_instance_closed", lambda: controls.closed(controls.mates))
    table.once("shuffled_closed", lambda: controls.closed(controls.shuffled()))
    table.once("copy_alarm_on_memorised", lambda: controls.copies(memorised=True))
    table.once("copy_alarm_on_real", lambda: controls.copies(memorised=False))
    table.entry("orderings", "overtraining costs attributes", controls.overtraining)
    table.entry("orderings", "one background leaks", controls.leaking)
    if ordered := from_rows(wanted.methods, table.values["about"]):
        table.entry("orderings", "textual inversion below LoRA", lambda: ordered)
    show(table.values)
    return 0


def show(values: dict) -> None:
    names = ("own_closed", "other_instance_closed", "shuffled_closed", "copy_alarm_on_memorised", "copy_alarm_on_real")
    print_table(("control", "value"), [(name.replace("_", " "), values[name]) for name in names])
    for name, found in values["orderings"].items():
        print(f"{name}: {'holds' if found['holds'] else 'BROKEN'} {found}")
