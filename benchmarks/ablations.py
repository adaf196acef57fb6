"""`bench methods --ablations`: what each piece of a method is worth, same instances, same steps, one sampling seed.

A row is a recipe with something left out, taken in or used elsewhere; its paired differences are to the row that it
stands `against`. Every row has a setting: *varied* training pictures, all in front of *one background*, or learned on
the base and used on a *finetuned base* (finetuned.py). The leak is the share of pictures with that background where
the prompt asks for another; in the other settings it is what comes by chance.

Equal steps, as in the papers: what a piece costs in time stands beside it, and a busy machine changes nothing.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..personalization.recipe import Recipe
from ..playground.judge import load_judge
from ..playground.model import WEIGHTS, load
from ..playground.scores import leaks
from ..playground.world import PROMPTS
from .finetuned import RANK, SIZE, finetuned
from .kept import Kept
from .made import Captions, Made, Method, concept_method, of, recipe_key, row, taking
from .statistics import closed_share, paired_interval
from .table import Table, fingerprint, print_table
from .wind_tunnel import Case, Sampled, Tunnel, before, cases

VARIED, ONE_BACKGROUND, FINETUNED = "varied", "one background", "finetuned base"
BACKGROUND = "beach"
INSTANCES, SETTINGS, STEPS = 8, PROMPTS[:10], 80
SCORES = ("identity", "attributes", "leak")


class Ablation(NamedTuple):
    """No recipe: the class word."""

    recipe: Recipe | None
    setting: str = VARIED
    against: str = ""
    captions: Captions = Captions.NONE


def ablations(steps: int) -> dict[str, Ablation]:
    """By the names of their rows; what a row stands against comes before it."""
    quick, nested, fast = (taking(method, steps) for method in ("quick", "nested", "staged fast"))
    return {
        "class word": Ablation(None),
        "quick": Ablation(quick),
        **_layerwise(taking("layerwise", steps)),
        **_staged(taking("staged", steps)),
        "nested, one value": Ablation(replace(nested, bank=1)),
        f"nested, bank of {nested.bank}": Ablation(nested, against="nested, one value"),
        "nested, value norm 1": Ablation(replace(nested, value_norm=1.0), against=f"nested, bank of {nested.bank}"),
        "nested, value norm 2": Ablation(replace(nested, value_norm=2.0), against=f"nested, bank of {nested.bank}"),
        **_attractors(steps),
        "class word, finetuned base": Ablation(None, FINETUNED, "class word"),
        "quick, finetuned base": Ablation(quick, FINETUNED, "quick"),
        "staged fast": Ablation(fast),
        "staged fast, captions, all stages": Ablation(fast, against="staged fast", captions=Captions.WRITTEN),
        "staged fast, captions": Ablation(
            fast.captioned(), against="staged fast, captions, all stages", captions=Captions.WRITTEN
        ),
        "staged fast, soft masks": Ablation(replace(fast, soft_masks=True), against="staged fast"),
        "staged fast, attractor": Ablation(replace(fast, attractor=True), against="staged fast"),
        "staged fast, attractor, soft masks": Ablation(
            replace(fast, attractor=True, soft_masks=True, mask_split=True), against="staged fast, attractor"
        ),
        "staged fast, finetuned base": Ablation(fast, FINETUNED, "staged fast"),
    }


def _layerwise(whole: Recipe) -> dict[str, Ablation]:
    """CoAR's own order (arXiv 2508.07341), and each of its two kinds of tensors alone."""
    plain = replace(whole, dpp=0.0, casr=0.0)
    (stage,) = whole.stages
    rows, tokens = (replace(stage, trains=(one,)) for one in ("context_rows.", "image_tokens."))
    return {
        "LMCL only": Ablation(plain),
        "LMCL + DPP": Ablation(replace(whole, casr=0.0), against="LMCL only"),
        "LMCL + CASR": Ablation(replace(whole, dpp=0.0), against="LMCL only"),
        "layerwise": Ablation(whole, against="LMCL only"),
        "rows only": Ablation(replace(plain, stages=(rows,), image_tokens=0), against="LMCL only"),
        "image tokens only": Ablation(replace(plain, stages=(tokens,)), against="LMCL only"),
    }


def _staged(whole: Recipe) -> dict[str, Ablation]:
    stages = whole.stages
    numbers = range(1, len(stages) + 1)
    less = {f"no stage {n}": replace(whole, stages=(*stages[: n - 1], *stages[n:])) for n in numbers}
    less["no regulariser"] = whole.unregulated()
    return {
        "staged": Ablation(whole),
        **{f"staged, {what}": Ablation(one, against="staged") for what, one in less.items()},
    }


def _attractors(steps: int) -> dict[str, Ablation]:
    found = {}
    for method in ("textual inversion", "quick", "layerwise"):
        recipe, alone = taking(method, steps), f"{method}, one background"
        varied = method if method != "textual inversion" else ""  # the full table has it
        found[alone] = Ablation(recipe, ONE_BACKGROUND, varied)
        found[f"{alone}, attractor"] = Ablation(replace(recipe, attractor=True), ONE_BACKGROUND, alone)
    masked = replace(recipe, soft_masks=True)  # layerwise's, which leaks the most
    both = replace(masked, attractor=True, mask_split=True)
    return {
        **found,
        f"{alone}, soft masks": Ablation(masked, ONE_BACKGROUND, alone),
        f"{alone}, attractor, soft masks": Ablation(both, ONE_BACKGROUND, alone),
    }


class Bench:
    def __init__(self, wanted: Namespace, scratch: Path) -> None:
        weights = wanted.weights or WEIGHTS
        self.tunnel = Tunnel(load(weights), load_judge("first", weights), 1, Kept(wanted.learned))
        self.scratch = scratch
        self.cases = cases(wanted.instances or INSTANCES, wanted.world_seed, SETTINGS)

    @cached_property
    def one_background(self) -> list[Case]:
        return [before(case, BACKGROUND) for case in self.cases]

    def row(self, ablation: Ablation) -> dict:
        learned_from = self.one_background if ablation.setting == ONE_BACKGROUND else self.cases
        made = row(self.tunnel, learned_from, self.method(ablation), self.leak)
        return {"setting": ablation.setting, "against": ablation.against, **made}

    def method(self, ablation: Ablation) -> Method:
        used_on = finetuned(self.tunnel.playground.model) if ablation.setting == FINETUNED else None
        if ablation.recipe:
            return concept_method(ablation.recipe, self.scratch, used_on, ablation.captions)
        return lambda tunnel, case: Made(tunnel.sample(case, case.class_word, used_on))

    def leak(self, case: Case, sampled: Sampled) -> dict[str, float]:
        asked = [setting.background for setting in sampled.settings]
        seen = leaks(self.tunnel.judge.attributes(sampled.images.flatten(0, 1)), asked, BACKGROUND)
        return {"leak": float(seen.nanmean())}

    def ceiling(self) -> list[dict]:
        return [self.tunnel.ceiling(case)._asdict() for case in self.cases]


def run(wanted: Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(wanted, Path(folder))
        about = {"bench": "ablations", "world_seed": wanted.world_seed, "instances": len(bench.cases)}
        about["weights"] = fingerprint(wanted.weights or WEIGHTS)
        table = Table(wanted.json, {**about, "steps": wanted.steps, "finetuned": {"rank": RANK, "size": SIZE}})
        for name, ablation in ablations(wanted.steps).items():
            key = recipe_key(ablation.recipe) if ablation.recipe else ""
            made = table.row(name, lambda ablation=ablation: bench.row(ablation), recipe=key)
            print(f"{name}: identity {made['identity']:.3f}, attributes {made['attributes']:.3f}", flush=True)
        table.once("ceiling_per_case", bench.ceiling)
    finish(table.values)
    table.write()
    show(table.values)
    return 0


def finish(values: dict) -> None:
    """What compares rows: closed, from the class word on the row's own base, and paired differences to `against`."""
    rows = {made["method"]: made for made in values["rows"]}
    ceiling = np.array([one["identity"] for one in values["ceiling_per_case"]])
    for made in rows.values():
        floor = of(rows["class word, finetuned base" if made["setting"] == FINETUNED else "class word"])
        share = closed_share(of(made), floor, ceiling)
        made["closed"], made["ci"] = round(share.mean, 4), [round(share.low, 4), round(share.high, 4)]
        if made["against"]:
            made |= {f"{score}_over": _over(made, rows[made["against"]], score) for score in SCORES}


def _over(made: dict, other: dict, score: str) -> list[float]:
    """Mean, low and high of the paired difference."""
    return [round(value, 4) for value in paired_interval(of(made, score), of(other, score))]


def show(values: dict) -> None:
    heads = ("row", "closed", "95 %", "attributes", "leak", "params", "s", "steps")
    print_table((*heads, *(f"{score} over" for score in SCORES)), [_cells(made) for made in values["rows"]])
    rank, size = values["about"]["finetuned"].values()
    print(f"finetuned base: a random rank {rank} of {size:.0%} of every attention and feed-forward weight's norm")


def _cells(made: dict) -> list:
    scored, spent = ("attributes", "leak"), ("params", "seconds", "steps")
    over = [made.get(f"{score}_over") for score in SCORES]
    return [
        *(made["method"], made["closed"], "{:.2f}..{:.2f}".format(*made["ci"])),
        *(made[name] for name in (*scored, *spent)),
        *("{:+.3f} ({:+.2f}..{:+.2f})".format(*one) if one else None for one in over),
    ]
