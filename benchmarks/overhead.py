"""`bench overhead`: what composed concepts cost while a picture is drawn, against the unpatched model of the same run.

A prediction with guidance (one prompt with the words, one without), as the sampler asks for it. Patched and unpatched
runs take turns; a case is the median ratio of neighbours. "unpatched again" tells how far noise alone moves it,
"merged, unchanged" what it costs that the host keeps merged weights in another place: zeros were added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import comfy.model_patcher
import comfy.sample
import comfy.sd
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.family import base_of
from ..personalization.comfyui.patch import weave_model
from ..personalization.composition import Composition, PlacedConcept
from ..personalization.concept import Base, Concept, ConceptInfo
from ..personalization.parts import ContextRows, LowRank, NestedValues
from ..personalization.parts.low_rank import Pair, layer_widths
from . import full_size
from .gauge import clock, device_name, median_ratio
from .step import CHECKPOINTS, first_to_go
from .table import Table, arguments, print_table

FAMILY = "SD 1.5"
STEPS = 2  # of one sampling: a run reads its conditionings in the first
RUNS, QUICK_RUNS = 6, 3
RANK, BANK = 8, 8
AGAIN, UNCHANGED = "unpatched again", "merged, unchanged"


class Case(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    positive: list
    negative: list


def info(word: str, base: Base) -> ConceptInfo:
    return ConceptInfo(word, word, "[V] mug", "mug", "subject", base)


def rows(word: str, base: Base) -> Concept:
    values = {shape.site: torch.randn(1, base.context_width) for shape in base.sites}
    return Concept(info(word, base), {}, (ContextRows(values),))


def nested(word: str, base: Base) -> Concept:
    values = {shape.site: torch.randn(BANK, base.context_width) for shape in base.sites}
    return Concept(info(word, base), {}, (NestedValues(values),))


def low_rank(word: str, base: Base) -> Concept:
    def pair(into: int, out: int) -> Pair:
        return Pair(torch.randn(RANK, into) / into**0.5, 0.1 * torch.randn(out, RANK))

    layers = {shape.site: {name: pair(*widths) for name, widths in layer_widths(shape).items()} for shape in base.sites}
    return Concept(info(word, base), {}, (LowRank(layers),))


def four_with_regions(base: Base) -> Composition:
    """A quarter of the picture each."""
    return tuple(PlacedConcept(rows(f"c{i}", base), region=_quarter(i)) for i in range(4))


def _quarter(number: int) -> Tensor:
    region = torch.zeros(64, 64)
    top, left = divmod(number, 2)
    region[32 * top : 32 * top + 32, 32 * left : 32 * left + 32] = 1
    return region


def many(count: int, base: Base) -> Composition:
    return tuple(PlacedConcept(rows(f"c{i}", base)) for i in range(count))


CASES: dict[str, Callable[[Base], Composition]] = {
    AGAIN: lambda base: (),
    "1 concept": partial(many, 1),
    "4 concepts with regions": four_with_regions,
    "16 concepts": partial(many, 16),
    "nested": lambda base: (PlacedConcept(nested("c0", base)),),
    "low rank": lambda base: (PlacedConcept(low_rank("c0", base)),),
    "merged low rank": lambda base: (PlacedConcept(low_rank("c0", base), sparing=False),),
}


class Bench:
    def __init__(self, loaded: full_size.Loaded, side: int) -> None:
        self.loaded = loaded
        self.base = base_of(self.loaded.model, fingerprint=False)
        self.latent = torch.zeros(1, 4, side // 8, side // 8)
        self.taken: list[float] = []

    def case(self, composition: Composition) -> Case:
        """The same text with and without concepts: the words, or the class word instead."""
        words = [f"<{placed.word}>" for placed in composition] or ["mug"]
        clip = weave_clip(self.loaded.clip, composition) if composition else self.loaded.clip
        model = weave_model(self.loaded.model, composition) if composition else self.loaded.model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "bench", self._timed)
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (f"a photo of {', '.join(words)}", "")
        )
        return Case(model, positive, negative)

    def unchanged(self) -> Case:
        """The layers that "merged low rank" changes, with zeros added by the host."""
        plain = self.case(())
        weights = plain.model.model.state_dict().items()
        zeros = {
            key: w.new_zeros(()).expand(w.shape) for key, w in weights if ".transformer_blocks." in key and w.ndim == 2
        }
        plain.model.add_patches({key: ("diff", (zero,)) for key, zero in zeros.items()})
        return plain

    def _timed(self, executor: WrapperExecutor, *args: object, **kwargs: object) -> object:
        began = clock()
        out = executor(*args, **kwargs)
        self.taken.append(clock() - began)
        return out

    def seconds(self, case: Case) -> list[float]:
        """Of every prediction of one short sampling."""
        self.taken = []
        noise = comfy.sample.prepare_noise(self.latent, 0)
        comfy.sample.sample(
            case.model,
            noise,
            STEPS,
            7.0,
            "euler",
            "normal",
            case.positive,
            case.negative,
            self.latent,
            disable_pbar=True,
        )
        return self.taken

    def compared(self, case: Case, runs: int) -> tuple[list[float], list[float]]:
        """Seconds with and without, taking turns; the first turn warms up."""
        plain = self.case(())
        turns = [(self.seconds(case), self.seconds(plain)) for _ in range(runs + 1)][1:]
        ours, theirs = zip(*turns, strict=True)
        return sum(ours, []), sum(theirs, [])


def main(argv: list[str]) -> int:
    parser = arguments("overhead", any_checkpoint=True)
    full_size.ask_side(parser)
    wanted = parser.parse_args(argv)
    first_to_go()
    family = full_size.family_in(wanted.checkpoint) if wanted.checkpoint else FAMILY
    side = full_size.side_of(family, wanted.side, wanted.quick)
    model = wanted.checkpoint.name if wanted.checkpoint else family
    table = Table(wanted.json, {"bench": "overhead", "quick": wanted.quick, "model": f"{model}, {side} px, guidance"})
    table.values["device"] = device_name()
    loaded = full_size.opened(wanted.checkpoint) if wanted.checkpoint else full_size.load(family, CHECKPOINTS)
    bench = Bench(loaded, side)
    base_seconds: list[float] = []
    cases = {name: lambda make=make: bench.case(make(bench.base)) for name, make in CASES.items()}
    for name, make in {**cases, UNCHANGED: bench.unchanged}.items():
        table.row(name, partial(_row, bench, make, QUICK_RUNS if wanted.quick else RUNS, base_seconds), "case")
        print(f"{name}: {table.values['rows'][-1]['ratio']:.3f}", flush=True)
    if base_seconds:
        table.values["base_s"] = median(base_seconds)
    table.write()
    show(table.values)
    return 0


@torch.inference_mode()  # as the host runs its nodes
def _row(bench: Bench, make: Callable[[], Case], runs: int, base_seconds: list[float]) -> dict[str, float]:
    torch.manual_seed(0)
    ours, theirs = bench.compared(make(), runs)
    base_seconds += theirs
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    return {"ratio": round(median_ratio(ours, theirs), 4), "least": round(ratios[0], 4), "most": round(ratios[-1], 4)}


def show(values: dict) -> None:
    print(f"{values['about']['model']} on {values['device']}: {values['base_s']:.3f} s a prediction, unpatched")
    lines: Sequence = [(row["case"], row["ratio"], row["least"], row["most"]) for row in values["rows"]]
    print_table(("case", "x unpatched", "least", "most"), lines)
