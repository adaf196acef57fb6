"""`bench methods`: does it learn? Unseen instances, the same seconds for everybody, scored against held-out pictures.

Rows: class word (floor), full caption (all coarse words, no learning), textual inversion, quick, and ComfyUI's own
Train LoRA in the same process with the best of three learning rates and two strengths chosen on other instances.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..personalization.checkpoint import save
from ..personalization.comfyui.canvas import Canvas, latents_of
from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.patch import weave_model
from ..personalization.comfyui.session import training_session
from ..personalization.composition import PlacedConcept
from ..personalization.concept import Concept
from ..personalization.dataset import ConceptDataset
from ..personalization.learner import learn
from ..personalization.methods import Beginning, task_of
from ..personalization.recipe import Recipe, recipe_for
from ..playground.judge import load_judge
from ..playground.model import FAMILY, WEIGHTS, load
from ..playground.world import PROMPTS
from .core_lora import Lora, tuned
from .statistics import Interval, paired_interval
from .table import Table, arguments, print_table
from .wind_tunnel import Case, Sampled, Scores, Tunnel, cases

SECONDS = 20.0
INSTANCES, QUICK_INSTANCES, QUICK_PROMPTS = 20, 8, 5
LEFT_OUT = ("textual inversion", "nested")  # of the quick table
CURVE, CURVE_INSTANCES = (5.0, 10.0, 20.0, 60.0), 4


class Made(NamedTuple):
    """A method's pictures for one case and what they cost."""

    sampled: Sampled
    seconds: float = 0.0
    params: int = 0
    file_bytes: int = 0


Method = Callable[[Tunnel, Case], Made]


def class_word(tunnel: Tunnel, case: Case) -> Made:
    return Made(tunnel.sample(case, case.class_word))


def full_caption(tunnel: Tunnel, case: Case) -> Made:
    return Made(tunnel.sample(case, case.full_caption))


def concept_method(method: str, seconds: float, scratch: Path, attractor: bool = False) -> Method:
    def make(tunnel: Tunnel, case: Case) -> Made:
        began = time.perf_counter()
        concept = learned_concept(tunnel, case, method, seconds, attractor)
        spent = time.perf_counter() - began
        save(concept, scratch / "concept.safetensors")
        composition = (PlacedConcept(concept),)
        model = weave_model(tunnel.playground.model, composition)
        clip = weave_clip(tunnel.playground.clip, composition)
        sampled = tunnel.sample(case, f"<{concept.info.placeholder}>", model, clip)
        return Made(sampled, spent, trained_parameters(concept), (scratch / "concept.safetensors").stat().st_size)

    return make


def learned_concept(tunnel: Tunnel, case: Case, method: str, seconds: float, attractor: bool = False) -> Concept:
    recipe = replace(recipe_for(method, FAMILY, "subject"), seconds=seconds, steps=0, attractor=attractor)
    return learned_by(recipe, tunnel, case.dataset(), ("it", case.class_word, "subject"), case.seed)


def learned_by(
    recipe: Recipe, tunnel: Tunnel, dataset: ConceptDataset, words: tuple[str, str, str], seed: int
) -> Concept:
    """What Learn Concept does between its sockets, without a graph; `words`: placeholder, class word, role."""
    canvas = Canvas(tunnel.playground.model, tunnel.playground.clip, tunnel.playground.vae)
    base = canvas.base()
    latents = latents_of(canvas, dataset, recipe, base, seed)
    with training_session(canvas.model, canvas.clip) as session:
        beginning = Beginning(session.encoder, base, recipe, *words, denoiser=session.denoiser, latents=latents)
        return learn(task_of(beginning, seed)).concept


def trained_parameters(concept: Concept) -> int:
    parts = sum(t.numel() for part in concept.parts for t in part.tensors().values())
    return parts or sum(t.numel() for t in concept.embeddings.values())


def core_lora(lora: Lora, tunnel: Tunnel, case: Case) -> Made:
    began = time.perf_counter()
    weights = lora.train(tunnel, case)
    spent = time.perf_counter() - began
    numbers = sum(t.numel() for t in weights.values())
    return Made(lora.sample(tunnel, case, weights), spent, numbers, sum(t.nbytes for t in weights.values()))


class Bench:
    def __init__(self, world_seed: int, quick: bool, weights: Path) -> None:
        self.quick, self.world_seed = quick, world_seed
        self.settings = PROMPTS[:: len(PROMPTS) // QUICK_PROMPTS][:QUICK_PROMPTS] if quick else PROMPTS[:10]
        self.tunnel = Tunnel(load(weights), load_judge("first", weights))
        self.cases = cases(QUICK_INSTANCES if quick else INSTANCES, world_seed, self.settings)
        self.size = sum(p.numel() for p in self.tunnel.playground.model.model.diffusion_model.parameters())

    def methods(self, scratch: Path) -> dict[str, Callable[[], Method]]:
        """In the order of their rows; each is made when its row is due, since the peer is tuned first."""
        rows: dict[str, Callable[[], Method]] = {
            "class word": lambda: class_word,
            "full caption": lambda: full_caption,
            "textual inversion": lambda: concept_method("textual inversion", SECONDS, scratch),
            "quick": lambda: concept_method("quick", SECONDS, scratch),
            "layerwise": lambda: concept_method("layerwise", SECONDS, scratch),
            "nested": lambda: concept_method("nested", SECONDS, scratch),
            "staged fast": lambda: concept_method("staged fast", SECONDS, scratch),
            "staged fast, attractor": lambda: concept_method("staged fast", SECONDS, scratch, attractor=True),
            "core Train LoRA": lambda: partial(core_lora, tuned(self.tunnel, self.world_seed, SECONDS, self.settings)),
        }
        return {name: make for name, make in rows.items() if not (self.quick and name in LEFT_OUT)}

    def row(self, method: Method) -> dict:
        made, scored = [], []
        for case in self.cases:
            made.append(method(self.tunnel, case))
            scored.append(self.tunnel.score(case, made[-1].sampled))
            made[-1] = made[-1]._replace(sampled=None)
        params = int(np.mean([one.params for one in made]))
        return {
            **mean_scores(scored),
            "params": params,
            "params_fraction": params / self.size,
            "file_bytes": int(np.mean([one.file_bytes for one in made])),
            "seconds": round(float(np.mean([one.seconds for one in made])), 2),
            "per_case": [one._asdict() for one in scored],
        }

    def ceiling(self) -> list[dict]:
        return [self.tunnel.ceiling(case)._asdict() for case in self.cases]

    def words_alone(self) -> list[dict]:
        return [self.tunnel.words_alone(case)._asdict() for case in self.cases]

    def curve(self, scratch: Path) -> dict[str, float]:
        """Identity of `quick` after so many seconds, on the first few instances."""
        few = self.cases[:CURVE_INSTANCES]
        made = {s: [concept_method("quick", s, scratch)(self.tunnel, case).sampled for case in few] for s in CURVE}
        return {
            f"{seconds:g}": float(np.mean([self.tunnel.score(*pair).identity for pair in zip(few, found, strict=True)]))
            for seconds, found in made.items()
        }


def mean_scores(scored: list[Scores]) -> dict[str, float]:
    means = {name: round(float(np.mean([getattr(one, name) for one in scored])), 4) for name in Scores._fields}
    return {**means, "gap": round(means["identity_train"] - means["identity"], 4)}


def closed(identity: np.ndarray, floor: np.ndarray, ceiling: np.ndarray, draws: int = 4000) -> Interval:
    """(identity - floor) / (ceiling - floor) over the cases' means, with its bootstrap interval over cases."""
    picks = np.random.default_rng(0).integers(len(identity), size=(draws, len(identity)))
    shares = (identity - floor)[picks].mean(1) / (ceiling - floor)[picks].mean(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float((identity - floor).mean() / (ceiling - floor).mean()), float(low), float(high))


def of(row: dict, score: str = "identity") -> np.ndarray:
    return np.array([one[score] for one in row["per_case"]])


def finish(values: dict) -> None:
    """What compares rows: closed, and the paired difference to "full caption"."""
    rows = {row["method"]: row for row in values["rows"]}
    floor, ceiling = of(rows["class word"]), np.array([one["identity"] for one in values["ceiling_per_case"]])
    values["floor"], values["ceiling"] = round(float(floor.mean()), 4), round(float(ceiling.mean()), 4)
    told = np.array([one["identity"] for one in values["words_alone_per_case"]])
    values["words_alone"] = [round(v, 4) for v in closed(told, floor, ceiling)]
    for row in rows.values():
        share = closed(of(row), floor, ceiling)
        row["closed"], row["ci"] = round(share.mean, 4), [round(share.low, 4), round(share.high, 4)]
        over = paired_interval(of(row), of(rows["full caption"]))
        row["identity_over_full_caption"] = [round(v, 4) for v in over]
        lost = paired_interval(of(row, "attributes"), of(rows["class word"], "attributes"))
        row["attributes_over_class_word"] = [round(v, 4) for v in lost]


def main(argv: list[str]) -> int:
    wanted = arguments("methods").parse_args(argv)
    bench = Bench(wanted.world_seed, wanted.quick, wanted.weights or WEIGHTS)
    table = Table(wanted.json, {"bench": "methods", "world_seed": wanted.world_seed, "quick": wanted.quick})
    with tempfile.TemporaryDirectory() as folder:
        for name, make in bench.methods(Path(folder)).items():
            row = table.row(name, lambda make=make: bench.row(make()))
            print(f"{name}: identity {row['identity']:.3f}, attributes {row['attributes']:.3f}", flush=True)
        table.once("ceiling_per_case", bench.ceiling)
        table.once("words_alone_per_case", bench.words_alone)
        if not wanted.quick:
            table.once("curve", lambda: bench.curve(Path(folder)))
    finish(table.values)
    table.write()
    show(table.values)
    return 0


def show(values: dict) -> None:
    heads = ("method", "identity", "train", "closed", "95 %", "gap", "attributes", "copies", "params", "bytes", "s")
    rows = [
        (
            row["method"],
            *(row[name] for name in ("identity", "identity_train", "closed")),
            "{:.2f}..{:.2f}".format(*row["ci"]),
            *(row[name] for name in ("gap", "attributes", "copies", "params", "file_bytes", "seconds")),
        )
        for row in values["rows"]
    ]
    print_table(heads, rows)
    print(f"floor {values['floor']:.3f} (class word), ceiling {values['ceiling']:.3f} (real pictures after the VAE)")
    told, low, high = values["words_alone"]
    print(f"a perfect drawing of the full caption's words alone would close {told:.2f} ({low:.2f}..{high:.2f})")
