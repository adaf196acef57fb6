"""`bench learn --to-score S`: seconds of learning until the held-out identity S is first reached, ours and the peer's.

Every rung of a ladder of doubling steps is learned from nothing and scored on prompts that nobody trained on; the first
rung whose mean over the instances reaches the score counts, with its seconds. The peer is ComfyUI's Train LoRA at the
best of its learning rates (--quick: the middle one), which is not known beforehand: that is to its advantage. Where
the model captions the pictures first (Caption Pictures), that counts among the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import NamedTuple

from ..personalization.composition import as_recommended
from ..playground.judge import load_judge
from ..playground.model import WEIGHTS, load
from ..playground.world import PROMPTS
from .core_lora import RARE, RATES, Lesson, Lora, trained_lora
from .gauge import clock, device_name
from .made import Captions, drawn, learned_subject, reading, recipe_key, taking
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import Case, Sampled, Tunnel, cases

SCORE = 0.3  # the class word has 0.03 and all coarse words 0.20 (bench methods, world seed 0)
RUNGS = (8, 16, 32, 64, 128, 256, 512)
INSTANCES, QUICK_INSTANCES = 6, 2
SETTINGS, QUICK_SETTINGS = 10, 3
OURS = {
    "quick": ("quick", Captions.NONE),
    **{f"staged fast{captions.value}": ("staged fast", captions) for captions in (Captions.NONE, Captions.MODELS)},
}


class Rung(NamedTuple):
    """One case after so many steps: its seconds of learning, and its pictures."""

    seconds: float
    sampled: Sampled


Climb = Callable[[Tunnel, Case, int], Rung]


def ours(method: str, captions: Captions, tunnel: Tunnel, case: Case, steps: int) -> Rung:
    recipe = reading(taking(method, steps), captions)
    began = clock()
    concept = learned_subject(recipe, tunnel, case, captions)
    return Rung(clock() - began, drawn(as_recommended(concept), tunnel, case))


def core(rate: float, tunnel: Tunnel, case: Case, steps: int) -> Rung:
    lesson = Lesson(case.training, (f"a photo of {RARE} {case.class_word}",), case.seed)
    began = clock()
    weights = trained_lora(tunnel, lesson, rate, steps)
    spent = clock() - began
    return Rung(spent, Lora(rate, 1.0, 0.0).sample(tunnel, case, weights))


def climbed(climb: Climb, tunnel: Tunnel, among: Sequence[Case], score: float) -> dict:
    """The first rung that reaches the score; the last one, without seconds, where none does."""
    told: dict = {}
    for steps in RUNGS:
        rungs = [(case, climb(tunnel, case, steps)) for case in among]
        identity = fmean(tunnel.score(case, rung.sampled).identity for case, rung in rungs)
        spent = fmean(rung.seconds for _, rung in rungs)
        told = {"steps": steps, "identity": round(identity, 4), "spent_s": round(spent, 2)}
        if identity >= score:
            return {**told, "seconds": told["spent_s"]}
    return {**told, "seconds": None}


def main(argv: list[str]) -> int:
    parser = arguments("learn")
    parser.add_argument(
        "--to-score", type=float, default=SCORE, metavar="S", help=f"held-out identity, {SCORE} if none"
    )
    wanted = parser.parse_args(argv)
    settings = PROMPTS[:: len(PROMPTS) // QUICK_SETTINGS][:QUICK_SETTINGS] if wanted.quick else PROMPTS[:SETTINGS]
    about = {"bench": "learn", "world_seed": wanted.world_seed, "quick": wanted.quick, "to_score": wanted.to_score}
    about["recipes"] = recipe_key(*(reading(taking(method, RUNGS[0]), captions) for method, captions in OURS.values()))
    folder = wanted.weights or WEIGHTS
    table = Table(wanted.json, {**about, "weights": fingerprint(folder)})
    table.values["device"] = device_name()
    tunnel = Tunnel(load(folder), load_judge("first", folder), 1 if wanted.quick else 2)
    among = cases(QUICK_INSTANCES if wanted.quick else INSTANCES, wanted.world_seed, settings)
    climbs: dict[str, Climb] = {name: partial(ours, *method) for name, method in OURS.items()}
    climbs |= {f"core Train LoRA, {rate:g}": partial(core, rate) for rate in (RATES[1:2] if wanted.quick else RATES)}
    for name, climb in climbs.items():
        row = table.row(name, partial(climbed, climb, tunnel, among, wanted.to_score))
        print(f"{name}: {row}", flush=True)
    show(table.values)
    return 0


def show(values: dict) -> None:
    print(
        f"Seconds until identity {values['about']['to_score']:g}, on {values['device']}; - = not in {RUNGS[-1]} steps"
    )
    names = ("seconds", "steps", "identity")
    print_table(("method", *names), [(row["method"], *(row[name] for name in names)) for row in values["rows"]])
