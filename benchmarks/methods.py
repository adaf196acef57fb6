"""`bench methods`: does it learn? Unseen instances, the same seconds for everybody, scored against held-out pictures.

Rows: class word (floor), full caption (all coarse words, no learning), our methods, quick also with one slot as in
CoAR, staged fast also with an attractor, and ComfyUI's own Train LoRA in the same process with the best of three
learning rates and two strengths chosen on other instances. quick, staged fast and Train LoRA also learn from pictures
whose captions say where the subject is and what is beside it; the first two also under the captions that the model
itself gives them in the same seconds (Caption Pictures), which are told nothing. The nested encoder that comes with the
playground learns nothing of them.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..personalization.recipe import Recipe
from ..personalization.settings import with_settings
from ..playground.judge import NAMES, load_judge
from ..playground.model import ENCODER, WEIGHTS, load
from ..playground.world import PROMPTS
from . import ablations
from .core_lora import BATCH, Lora, tuned
from .jobs import fill
from .kept import Kept
from .made import (
    Captions,
    Cost,
    Made,
    Method,
    class_word,
    concept_method,
    encoded_method,
    full_caption,
    of,
    reading,
    recipe_key,
    row,
    timed,
)
from .statistics import closed_share, paired_interval
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import Case, Tunnel, cases

SECONDS = 20.0
INSTANCES, QUICK_INSTANCES, QUICK_PROMPTS = 20, 8, 5
ONE_SLOT, CAPTIONED = "quick, one slot", ("quick", "staged fast")
PEER = "core Train LoRA"
CAPTIONED_PEER = f"{PEER}{Captions.WRITTEN.value}"
LEFT_OUT = (  # of the quick table, unless asked for
    *("textual inversion", ONE_SLOT, "nested", "staged fast, attractor", "nested encoder"),
    *(f"{method}{Captions.WRITTEN.value}" for method in CAPTIONED),
    *(f"quick{Captions.MODELS.value}", CAPTIONED_PEER),
)
CURVE, CURVE_INSTANCES = (5.0, 10.0, 20.0, 60.0), 4
JOBS = 2
CURVES = {f"curve of quick{by.value}": ("quick", by) for by in (Captions.NONE, Captions.WRITTEN)}


def core_lora(lora: Lora, tunnel: Tunnel, case: Case) -> Made:
    weights, took = lora.train(tunnel, case)
    numbers, size = (sum(count) for count in zip(*((t.numel(), t.nbytes) for t in weights.values()), strict=True))
    return Made(lora.sample(tunnel, case, weights), Cost(*took, numbers, size))


class Due(NamedTuple):
    """A method, made when its row is due, since the peer is tuned first; `recipe`: the key of ours."""

    make: Callable[[], Method]
    recipe: str = ""


class Bench:
    def __init__(self, wanted: Namespace) -> None:
        quick, self.weights = wanted.quick, wanted.weights or WEIGHTS
        self.quick, self.world_seed, self.seconds = quick, wanted.world_seed, wanted.seconds
        self.ours = wanted.settings  # of all our methods
        self.peer_batch = wanted.peer_batch
        self.only = ("class word", *wanted.rows) if wanted.rows else ()
        self.settings = PROMPTS[:: len(PROMPTS) // QUICK_PROMPTS][:QUICK_PROMPTS] if quick else PROMPTS[:10]
        self.tunnel = Tunnel(load(self.weights), load_judge(wanted.judge, self.weights), kept=Kept(wanted.learned))
        count = wanted.instances or (QUICK_INSTANCES if quick else INSTANCES)
        self.cases = cases(count, self.world_seed, self.settings)
        self.size = sum(p.numel() for p in self.tunnel.playground.model.model.diffusion_model.parameters())

    @cached_property
    def peer(self) -> Lora:
        return self._tuned(captioned=False)

    @cached_property
    def captioned_peer(self) -> Lora:
        return self._tuned(captioned=True)

    def _tuned(self, captioned: bool) -> Lora:
        return tuned(self.tunnel, self.world_seed, self.seconds, self.settings, captioned, self.peer_batch)

    def recipe(self, method: str) -> Recipe:
        return with_settings(timed(method, self.seconds), self.ours)

    def methods(self, scratch: Path) -> dict[str, Due]:
        """All, in the order of their rows."""

        def ours(method: str, captions: Captions = Captions.NONE, **changes: Any) -> Due:
            recipe = reading(replace(self.recipe(method), **changes), captions)
            return Due(lambda: concept_method(recipe, scratch, captions=captions), recipe_key(recipe))

        rows = {
            "class word": Due(lambda: class_word),
            "full caption": Due(lambda: full_caption),
            **{name: ours(name) for name in ("textual inversion", "quick")},
            ONE_SLOT: ours("quick", slots=1),
            **{name: ours(name) for name in ("layerwise", "nested", "staged fast")},
            "staged fast, attractor": ours("staged fast", attractor=True),
            PEER: Due(lambda: partial(core_lora, self.peer)),
            **{f"{one}{by.value}": ours(one, by) for one in CAPTIONED for by in (Captions.MODELS, Captions.WRITTEN)},
            CAPTIONED_PEER: Due(lambda: partial(core_lora, self.captioned_peer)),
            "nested encoder": Due(lambda: encoded_method(self.weights / ENCODER, scratch)),
        }
        return rows

    def due(self, scratch: Path) -> dict[str, Due]:
        return {name: due for name, due in self.methods(scratch).items() if self._wants(name)}

    def _wants(self, name: str) -> bool:
        return name in self.only if self.only else not (self.quick and name in LEFT_OUT)

    def peers(self) -> dict[str, Callable[[], dict[str, float]]]:
        """How each peer that has a row was tuned."""
        peers = {PEER: lambda: self.peer, CAPTIONED_PEER: lambda: self.captioned_peer}
        return {name: partial(_tuning, peer) for name, peer in peers.items() if self._wants(name)}

    def row(self, method: Method) -> dict:
        made = row(self.tunnel, self.cases, method)
        return {**made, "params_fraction": made["params"] / self.size}

    def ceiling(self) -> list[dict]:
        return [self.tunnel.ceiling(case)._asdict() for case in self.cases]

    def words_alone(self) -> list[dict]:
        return [self.tunnel.words_alone(case)._asdict() for case in self.cases]

    def curves(self, scratch: Path) -> dict[str, Callable[[], dict[str, float]]]:
        """Of the full table, or by the names of their rows."""
        every = {name: partial(self._curve, one, by, scratch) for name, (one, by) in CURVES.items()}
        return {name: make for name, make in every.items() if (name in self.only if self.only else not self.quick)}

    def unknown(self) -> str:
        """What to say of rows asked for that no table has."""
        known = [*self.methods(Path()), *CURVES]
        strange = [name for name in self.only if name not in known]
        there = f"the table has {'; '.join(known)}. Write one of these, in quotes."
        return f"--rows has {'; '.join(strange)}; {there}" if strange else ""

    def _curve(self, method: str, captions: Captions, scratch: Path) -> dict[str, float]:
        """Identity after so many seconds of learning, on the first few instances."""
        few, made = self.cases[:CURVE_INSTANCES], dict[str, float]()
        for seconds in CURVE:
            recipe = reading(timed(method, seconds), captions)
            of_some = row(self.tunnel, few, concept_method(recipe, scratch, captions=captions))
            made[f"{seconds:g}"] = of_some["identity"]
        return made


def _tuning(peer: Callable[[], Lora]) -> dict[str, float]:
    return {"learning_rate": peer().rate, "strength": peer().strength}


def finish(values: dict) -> None:
    """What compares rows: closed, and the paired difference to "full caption"."""
    rows = {made["method"]: made for made in values["rows"]}
    floor, ceiling = of(rows["class word"]), np.array([one["identity"] for one in values["ceiling_per_case"]])
    values["floor"], values["ceiling"] = round(float(floor.mean()), 4), round(float(ceiling.mean()), 4)
    told = np.array([one["identity"] for one in values["words_alone_per_case"]])
    values["words_alone"] = [round(v, 4) for v in closed_share(told, floor, ceiling)]
    for made in rows.values():
        share = closed_share(of(made), floor, ceiling)
        made["closed"], made["ci"] = round(share.mean, 4), [round(share.low, 4), round(share.high, 4)]
        over = {"identity_over_full_caption": ("identity", "full caption")}
        over |= {"attributes_over_class_word": ("attributes", "class word")}
        peer = CAPTIONED_PEER if made["method"].endswith(Captions.WRITTEN.value) else PEER
        over |= {f"{score}_over_peer": (score, peer) for score in ("identity", "attributes")}
        for name, (score, other) in over.items():
            if other in rows:
                made[name] = [round(v, 4) for v in paired_interval(of(made, score), of(rows[other], score))]


def main(argv: list[str]) -> int:
    parser = arguments("methods", learns=True)
    parser.add_argument("--ablations", action="store_true", help="what each piece of a method is worth (ablations.py)")
    parser.add_argument("--instances", type=int, help="how many instances, instead of the table's own number")
    parser.add_argument("--rows", nargs="+", default=(), help="only these rows and the class word's")
    parser.add_argument("--settings", default="", help="of our methods, as on Learn Concept: rank=16")
    parser.add_argument("--peer-batch", type=int, default=BATCH, help="pictures in a step of core Train LoRA")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of learning, for every row of the tables")
    parser.add_argument("--steps", type=int, default=ablations.STEPS, help="of learning, for every row of --ablations")
    parser.add_argument("--jobs", type=int, default=JOBS, help="rows made at a time, on equal shares of the cores")
    parser.add_argument("--judge", choices=NAMES, default=NAMES[0], help="who scores the pictures")
    wanted = parser.parse_args(argv)
    return ablations.run(wanted) if wanted.ablations else run(wanted, argv)


def run(wanted: Namespace, argv: list[str]) -> int:
    bench = Bench(wanted)
    if refused := bench.unknown():
        raise SystemExit(refused)
    about = {"bench": "methods", "world_seed": wanted.world_seed, "quick": wanted.quick}
    about["weights"] = fingerprint(wanted.weights or WEIGHTS)
    about |= {} if wanted.judge == NAMES[0] else {"judge": wanted.judge}
    about |= {"settings": wanted.settings} if wanted.settings else {}
    about |= {} if wanted.peer_batch == BATCH else {"peer_batch": wanted.peer_batch}
    table = Table(wanted.json, {**about, "instances": len(bench.cases), "seconds": wanted.seconds})
    with tempfile.TemporaryDirectory() as folder:
        table.once("ceiling_per_case", bench.ceiling)
        table.once("words_alone_per_case", bench.words_alone)
        due, curves = bench.due(Path(folder)), bench.curves(Path(folder))
        for number, (name, one) in enumerate(due.items()):
            if number == 1 and wanted.jobs > 1:  # all have the first, the class word
                fill(table, "methods", argv, _missing(table, due, curves), wanted.jobs)
            made = table.row(name, lambda one=one: bench.row(one.make()), recipe=one.recipe)
            print(f"{name}: identity {made['identity']:.3f}, attributes {made['attributes']:.3f}", flush=True)
        for name, tune in bench.peers().items():
            table.entry("peers", name, tune)
        for name, make in curves.items():
            table.entry("curves", name, make)
    table.sort(list(bench.methods(Path())))
    finish(table.values)
    table.write()
    show(table.values)
    return 0


def _missing(table: Table, due: Mapping[str, Due], curves: Iterable[str]) -> list[str]:
    rows = [name for name, one in due.items() if not table.has(name, recipe=one.recipe)]
    return rows + [name for name in curves if name not in table.values.get("curves", ())]


def show(values: dict) -> None:
    heads = (
        "method",
        "identity",
        "train",
        "closed",
        "95 %",
        "gap",
        "attributes",
        "copies",
        "params",
        "bytes",
        "s",
        "steps",
    )
    rows = [
        (
            row["method"],
            *(row[name] for name in ("identity", "identity_train", "closed")),
            "{:.2f}..{:.2f}".format(*row["ci"]),
            *(row[name] for name in ("gap", "attributes", "copies", "params", "file_bytes", "seconds", "steps")),
        )
        for row in values["rows"]
    ]
    print_table(heads, rows)
    print(f"floor {values['floor']:.3f} (class word), ceiling {values['ceiling']:.3f} (real pictures after the VAE)")
    told, low, high = values["words_alone"]
    print(f"a perfect drawing of the full caption's words alone would close {told:.2f} ({low:.2f}..{high:.2f})")
