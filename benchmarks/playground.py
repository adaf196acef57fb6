"""`bench playground`: does the playground draw what a prompt asks, and does the judge see what there is?

Prompts are combinations that base training never rendered, drawn through ComfyUI's own nodes with 20 steps and the
workflows' guidance. The judge is measured on real renderings of unseen instances and styles after the VAE.
"""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nodes import CLIPTextEncode, KSampler, VAEDecode

from ..playground.captions import article
from ..playground.judge import ATTRIBUTES, PAIR, Judge, load_judge, visible
from ..playground.model import CHANNELS, WEIGHTS, Playground, load
from ..playground.scores import asked_by, bound, right
from ..playground.world import RESOLUTION, Truth, compose_caption, draw_instance, draw_scene, held_out, truth
from .judging import QUICK, Figures, Sizes, figures, mean_attribute, same_order
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import CFG, SAMPLER, SCHEDULER, STEPS, as_bytes, through

PROMPTS, PAIRS, BATCH = 500, 100, 32
GOALS = {"attributes": 0.85, "prompt_exact": 0.45, "judge": 0.97, "eer": 0.05, "factor": 0.90}
SPLIT = "bench"


class Prompt(NamedTuple):
    text: str
    wanted: dict[str, str]  # by the judge's heads


class Drawn(NamedTuple):
    prompts: list[Prompt]
    images: Tensor  # uint8 (n, h, w, 3)
    seconds: float


def main(argv: list[str]) -> int:
    wanted = arguments("playground").parse_args(argv)
    bench = Bench(wanted.weights or WEIGHTS, wanted.world_seed, wanted.quick)
    about = {"bench": "playground", "world_seed": wanted.world_seed, "quick": wanted.quick}
    table = Table(wanted.json, about | {"weights": fingerprint(bench.folder)})
    table.once("attributes", bench.attributes)
    table.once("prompt_exact", bench.prompt_exact)
    table.once("two_objects", bench.two_objects)
    table.once("judge", bench.judged)
    table.once("seconds_per_image", lambda: round(bench.drawn.seconds / len(bench.drawn.prompts), 4))
    show(table.values)
    return 0


class Bench:
    def __init__(self, folder: Path, world_seed: int, quick: bool) -> None:
        self.folder, self.world_seed = folder, world_seed
        self.prompts, self.pairs, self.sizes = (100, 30, QUICK) if quick else (PROMPTS, PAIRS, Sizes())

    @cached_property
    def playground(self) -> Playground:
        return load(self.folder)

    @cached_property
    def judge(self) -> Judge:
        return load_judge("first", self.folder)

    @cached_property
    def drawn(self) -> Drawn:
        rng = np.random.default_rng([self.world_seed, 21])
        return draw(self.playground, [unseen(rng) for _ in range(self.prompts)], self.world_seed)

    def attributes(self) -> dict[str, float]:
        seen = right(self.judge.attributes(self.drawn.images), [prompt.wanted for prompt in self.drawn.prompts])
        shares = {name: [one[name] for one in seen if name in one] for name in ATTRIBUTES}
        return {name: round(float(np.mean(values)), 4) for name, values in shares.items()}

    def prompt_exact(self) -> float:
        seen = right(self.judge.attributes(self.drawn.images), [prompt.wanted for prompt in self.drawn.prompts])
        return round(float(np.mean([all(one.values()) for one in seen])), 4)

    def two_objects(self) -> float:
        rng = np.random.default_rng([self.world_seed, 22])
        drawn = draw(self.playground, [unseen_pair(rng) for _ in range(self.pairs)], self.world_seed + 1)
        met = bound(self.judge.attributes(drawn.images), [prompt.wanted for prompt in drawn.prompts])
        return round(float(met.float().mean()), 4)

    def judged(self) -> dict:
        found = figures(self.judge, self.through, self.sizes, self.world_seed)
        return {
            "attributes": round(mean_attribute(found), 4),
            "identity_eer": round(found.identity_eer, 4),
            "style_eer": round(found.style_eer, 4),
            "factors": found.factors,
            "second_judge_spearman": self.second_judge(),
            **more(found),
        }

    def second_judge(self) -> float | None:
        """None while its weights are not there."""
        if not (Path(self.folder) / "judge-second.safetensors").exists():
            return None
        judges = self.judge, load_judge("second", self.folder)
        return round(same_order(*judges, self.through, self.sizes, self.world_seed), 4)

    @torch.inference_mode()
    def through(self, images: Tensor) -> Tensor:
        return through(self.playground.vae, images)


def more(found: Figures) -> dict:
    return {
        "by_attribute": {name: round(value, 4) for name, value in found.attributes.items()},
        "by_style": {name: round(value, 4) for name, value in found.styled_attributes.items()},
        "identity_eer_across_styles": round(found.styled_identity_eer, 4),
    }


def unseen(rng: np.random.Generator) -> Prompt:
    """One object; styles in the proportions of the world, without those that have no name."""
    known = _held_out(rng, paired=False)
    noun = article(f"{known.colour} {known.class_name}")
    return Prompt(_text(noun, known, position=known.position, companion=known.companion), asked_by(known))


def unseen_pair(rng: np.random.Generator) -> Prompt:
    """Two objects, each with its class, colour and side."""
    known = _held_out(rng, paired=True)
    here, there = ("left", "right") if known.position == "left" else ("right", "left")
    first, second = (
        article(f"{colour} {name}")
        for colour, name in ((known.colour, known.class_name), (known.second_colour, known.second_class))
    )
    noun = f"{first} on the {here} and {second} on the {there}"
    right_ones = {head: name for head, name in visible(known).items() if head in ("objects", *PAIR)}
    return Prompt(_text(noun, known), right_ones)


def _text(noun: str, known: Truth, **named: str) -> str:
    return compose_caption(noun, background=known.background, style=known.style, **named)


def _held_out(rng: np.random.Generator, paired: bool) -> Truth:
    while True:
        second = draw_instance(rng, split=SPLIT) if paired else "none"
        known = truth(draw_scene(rng, second=second, split=SPLIT))
        if held_out(known) and known.style != "unnamed":
            return known


@torch.inference_mode()
def draw(playground: Playground, prompts: list[Prompt], seed: int) -> Drawn:
    """As a graph would, only that a batch holds many prompts."""
    began = time.perf_counter()
    parts = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    images = [_drawn(playground, part, 1000 * seed + number) for number, part in enumerate(parts)]
    return Drawn(prompts, torch.cat(images), time.perf_counter() - began)


def _drawn(playground: Playground, prompts: list[Prompt], seed: int) -> Tensor:
    positive = _batched([CLIPTextEncode().encode(playground.clip, prompt.text)[0] for prompt in prompts])
    (negative,) = CLIPTextEncode().encode(playground.clip, "")
    latent = {"samples": torch.zeros(len(prompts), CHANNELS, RESOLUTION // 8, RESOLUTION // 8)}
    (latent,) = KSampler().sample(
        playground.model, seed, STEPS, CFG, SAMPLER, SCHEDULER, positive, negative, latent, denoise=1.0
    )
    return as_bytes(VAEDecode().decode(playground.vae, latent)[0])


def _batched(conditionings: list[list]) -> list:
    """One conditioning with a row per prompt; all of the same length."""
    tensors = torch.cat([conditioning[0][0] for conditioning in conditionings])
    pooled = torch.cat([conditioning[0][1]["pooled_output"] for conditioning in conditionings])
    return [[tensors, {"pooled_output": pooled}]]


def show(values: dict) -> None:
    judge = values["judge"]
    rows = [
        (name, value, GOALS["attributes"], judge["by_attribute"][name]) for name, value in values["attributes"].items()
    ]
    rows += [("all that a prompt asks", values["prompt_exact"], GOALS["prompt_exact"], None)]
    rows += [("two objects, bound", values["two_objects"], None, None)]
    print_table(("drawn as asked", "share", "goal", "judge on real"), rows)
    print_table(
        ("the judge on real pictures", "value", "goal"),
        [
            ("attributes", judge["attributes"], GOALS["judge"]),
            ("identity, equal error", judge["identity_eer"], GOALS["eer"]),
            ("identity across styles, equal error", judge["identity_eer_across_styles"], None),
            ("style, equal error", judge["style_eer"], GOALS["eer"]),
            *((f"AUC {name}", value, GOALS["factor"]) for name, value in judge["factors"].items()),
            ("second judge, rank correlation", judge["second_judge_spearman"], None),
        ],
    )
    print(f"{values['seconds_per_image']:.3f} s per picture")
