"""Recipes: the stages and settings of a method, the paper's and ours side by side, per base family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

FAMILIES = ("Playground", "SD 1.5", "SD 2", "SDXL")
NEUTRAL = ("a photo of {}", "{}", "a picture of {}", "a close-up photo of {}", "a good photo of {}", "the photo of {}")
IN_STYLE = ("a picture in {}", "{}", "an image in {}", "a painting in {}", "a drawing in {}", "artwork in {}")
CHECK_SHARE = 0.2  # of a run's time may go to held-out checks
FORWARD_COST = 0.5  # of a training sample (measured on the playground: 55 trained, 104 predicted a second)


ADAMW, MUON = "adamw", "muon"
_LAYERS, _TEXT_LAYERS = ("low_rank.",), ("low_rank.*.attn2.",)


class Range(NamedTuple):
    """What a node's number input reads."""

    default: float
    least: float
    most: float
    step: float


STEPS = Range(0, 0, 20_000, 1)  # 0: from the budget
BATCH_SIZE = Range(0, 0, 64, 1)  # 0: the recipe's
LEARNING_RATE = Range(0, 0, 1, 1e-5)  # 0: the recipe's


@dataclass(frozen=True)
class Stage:
    """Trains tensors whose names begin with one of `trains` (`*` stands for anything), for its share of the steps."""

    trains: tuple[str, ...]
    learning_rate: float
    share: float = 1.0
    w_mean: float = 0.0  # of the attention regulariser
    w_var: float = 0.0
    uncaptioned: bool = False  # left out where captions tell the subject from its surroundings

    def includes(self, name: str) -> bool:
        return any(fnmatchcase(name, f"{beginning}*") for beginning in self.trains)

    @property
    def layered(self) -> bool:
        return self.trains in (_LAYERS, _TEXT_LAYERS)


@dataclass(frozen=True)
class Recipe:
    """A method's settings. `steps` 0 means as many as fit in `seconds`; the result records the number taken."""

    method: str
    stages: tuple[Stage, ...]
    steps: int = 0
    seconds: float = 0.0
    batch_size: int = 4
    schedule: str = "constant"  # or "cosine"
    warmup: float = 0.0  # share of a stage's steps
    weight_decay: float = 0.0
    min_snr: float = 0.0  # gamma; 0 = the model's own weights
    outside_mask: float = 0.1  # weight of the loss outside a picture's mask
    sigma_range: tuple[float, float] = (0.001, 0.999)  # percents of sampling; ComfyUI's sigma at 0 is 1e9
    slots: int = 1
    captioned_slots: int = 0  # where captions tell the subject from its surroundings; 0 = the same
    sites: tuple[str, ...] = ()  # keys, in which * stands for anything; empty = all
    templates: tuple[str, ...] = NEUTRAL
    captions: bool = True  # where pictures have some, instead of the templates
    checks: int = 20  # of the held-out loss, evenly spread
    image_tokens: int = 0  # per site
    bank: int = 0  # nested values per site
    value_norm: float = 0.0  # length of what they give over that of the word's own value; 0 = as they come
    dpp: float = 0.0  # weight of prior preservation
    class_pictures: int = 8  # that it holds on to
    casr: float = 0.0  # weight of self-regularisation
    casr_squared: bool = False
    attractor: bool = False  # a word per picture that takes what is not the subject; not for styles
    contrast: float = 0.05  # weight of keeping it apart from the subject
    mask_split: bool = False  # where a picture has a mask: inside asked of [V] alone, outside of its attractor
    soft_masks: bool = False  # pictures without a mask get one of the frozen model's attention; not for styles
    rank: int = 0  # of low-rank layers
    optimizer: str = ADAMW  # or "muon", for stages that train low-rank layers
    reach: int = 0  # steps that the learning rates are meant for: a longer run takes smaller ones; 0 = any number
    strength: float = 1.0  # recommended for what it makes, until a Strength Sheet says better
    keeps_best: bool = True  # the state that two held-out pictures or more find nearest; else the last, and they judge
    patience: int = 0  # held-out checks without a better one after which a stage ends; 0 = never

    def as_header(self) -> Mapping[str, object]:
        """JSON-ready, for the concept file."""
        return asdict(self)

    def decisive(self) -> Mapping[str, object]:
        """JSON-ready, for learning keys: a field at its default is left out, so that a new one changes no old key.

        Therefore no default of a recipe or a stage may ever change; RECIPES may.
        """
        return _told(self)

    def unregulated(self) -> Recipe:
        """The same without the attention regulariser."""
        return replace(self, stages=tuple(replace(stage, w_mean=0.0, w_var=0.0) for stage in self.stages))

    def captioned(self) -> Recipe:
        """The same where every picture has a caption."""
        stages = tuple(stage for stage in self.stages if not stage.uncaptioned)
        return replace(self, stages=stages, slots=self.captioned_slots or self.slots)

    def stage_steps(self) -> tuple[int, ...]:
        """How many steps each stage takes at most; `steps` in all."""
        done = list(accumulate((stage.share for stage in self.stages), initial=0.0))
        ends = [round(self.steps * share / done[-1]) for share in done]
        return tuple(end - start for start, end in pairwise(ends))

    def pace(self, step: int, steps: int) -> float:
        """Share of the learning rate at `step` of a stage's `steps`: linear warm-up, then constant or half a cosine.

        Past its reach the whole run takes smaller steps, so that more of them refine and do not go further.
        """
        return self._schedule(step, steps) * self.stride

    @property
    def stride(self) -> float:
        """Share of the learning rates that a run of this length takes at most."""
        return min(1.0, self.reach / self.steps) if self.reach else 1.0

    def _schedule(self, step: int, steps: int) -> float:
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    def check_every(self, held_samples: int) -> int:
        """Steps between held-out checks of `held_samples` predictions, so that they cost at most CHECK_SHARE."""
        cost = held_samples * FORWARD_COST / self.batch_size  # in steps
        return max(1, math.ceil(self.steps / self.checks), math.ceil(cost / CHECK_SHARE))


def _told(settings: Any) -> dict[str, object]:
    """What of a dataclass is not at its default, and so for the dataclasses in it."""
    every = {own.name: (own, getattr(settings, own.name)) for own in fields(settings)}
    return {name: _plain(value) for name, (own, value) in every.items() if value != own.default}


def _plain(value: Any) -> object:
    if is_dataclass(value):
        return _told(value)
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Sourced:
    """A recipe as published (None: nothing published carries over) and as we use it.

    `measured` says where ours comes from; empty = unmeasured.
    """

    paper: Recipe | None
    ours: Recipe
    measured: str = ""


_TEXTUAL_INVERSION = Sourced(
    # Gal et al., arXiv 2208.01618, section 4: effective learning rate 0.04, batch 8 (2 GPUs x 4), 5000 steps, on LDM
    paper=Recipe("textual inversion", (Stage(("embedding.",), 4e-2),), steps=5000, batch_size=8),
    ours=Recipe("textual inversion", (Stage(("embedding.",), 5e-3),), steps=1000, batch_size=4, warmup=0.03),
)
_ROWS, _TOKENS = ("context_rows.",), ("image_tokens.",)
_COAR = {"image_tokens": 1, "dpp": 1e-2, "casr": 5e-4}
_OURS_ROWS = Recipe("quick", (Stage(_ROWS, 1e-2),), steps=400, batch_size=4, warmup=0.03, schedule="cosine")
_QUICK = Sourced(
    # CoAR, arXiv 2508.07341: 1e-2, batch 1, 1000 steps for a subject; its tokens and loss are another model's
    paper=Recipe("quick", (Stage(_ROWS, 1e-2),), steps=1000, batch_size=1),
    ours=replace(_OURS_ROWS, slots=4),  # of 1, 4, 8 and 16 the more the nearer, on the playground (trials.md)
)
_LAYERWISE = Sourced(
    # CoAR, arXiv 2508.07341, section 4: as above with 1e-2 L_DPP + 5e-4 L_CASR, one text and one image token a layer
    paper=Recipe("layerwise", (Stage((*_ROWS, *_TOKENS), 1e-2),), steps=1000, batch_size=1, **_COAR),
    ours=replace(_OURS_ROWS, method="layerwise", stages=(Stage((*_ROWS, *_TOKENS), 1e-2),), **_COAR),
)
_NESTED = Sourced(
    paper=None,  # Nested Attention, arXiv 2501.01407, learns an encoder of 1024 tokens, not concepts
    ours=replace(_OURS_ROWS, method="nested", stages=(Stage(("nested_values.",), 1e-2),), bank=8),
)


def _staged(first: float, second: float, third: float, steps: int, uncaptioned: bool = False) -> tuple[Stage, ...]:
    """Learning rates of the three stages, and the last one's steps; `uncaptioned`: the second is, of a subject's."""
    return (
        Stage(("embedding.",), first, share=60, w_mean=0.1),
        Stage(_TEXT_LAYERS, second, share=100, w_mean=2.0, w_var=5.0, uncaptioned=uncaptioned),
        Stage(_LAYERS, third, share=steps, w_mean=2.0, w_var=5.0),
    )


# AttnDreamBooth, arXiv 2406.05000, and its authors' code: AdamW (0.9, 0.999), on the weights themselves, of SD 2.1
_ATTN_DREAMBOOTH = Recipe(
    "staged",
    _staged(1e-3, 2e-5, 2e-6, 500),
    steps=660,
    batch_size=8,
    weight_decay=1e-2,
    outside_mask=1.0,
    templates=("a photo of a {}",),
    captions=False,
)
# Embedding, regulariser and steps are theirs; 2e-6 would teach low-rank layers nothing, LoRA's usual 1e-4 is unmeasured
# Captions are read: what they say of a picture need not be learned (bench methods, rows with captions)
_OURS_STAGED = replace(
    _ATTN_DREAMBOOTH,
    stages=_staged(1e-3, 1e-4, 1e-4, 500),
    outside_mask=Recipe.outside_mask,
    captions=True,
    schedule="cosine",  # measured on the playground, where a constant rate ends further from the prompts
    rank=8,
    reach=660,
    keeps_best=False,  # measured on the playground, where held-out pictures stop it far too early (trials.md)
)
_STAGED = Sourced(_ATTN_DREAMBOOTH, _OURS_STAGED)
_STAGED_FAST = Sourced(
    # theirs: stage 3 in 200 steps at 1e-5, in batches of 4
    paper=replace(_ATTN_DREAMBOOTH, method="staged fast", stages=_staged(1e-3, 2e-5, 1e-5, 200), steps=360),
    ours=replace(
        _OURS_STAGED,
        method="staged fast",
        stages=_staged(1e-3, 1e-4, 3e-4, 200),
        steps=360,
        reach=360,
        batch_size=4,
    ),
)

_MEASURED = "bench methods, world seed 0"
RECIPES: dict[tuple[str, str], Sourced] = {
    **{("textual inversion", family): _TEXTUAL_INVERSION for family in FAMILIES},
    **{("quick", family): _QUICK for family in FAMILIES},
    **{("layerwise", family): _LAYERWISE for family in FAMILIES},
    **{("nested", family): _NESTED for family in FAMILIES},
    **{("staged", family): _STAGED for family in FAMILIES},
    **{("staged fast", family): _STAGED_FAST for family in FAMILIES},
    ("textual inversion", "Playground"): replace(
        _TEXTUAL_INVERSION,
        ours=replace(_TEXTUAL_INVERSION.ours, steps=120, batch_size=16),
        measured=_MEASURED,
    ),
    ("quick", "Playground"): replace(
        _QUICK,
        ours=replace(
            _QUICK.ours,
            stages=(Stage(_ROWS, 4e-2),),
            steps=240,
            batch_size=8,
            schedule="constant",
            slots=8,
            captioned_slots=16,  # more learn more of the thing, and without captions of what is around it
            strength=0.9,
        ),
        measured=f"{_MEASURED}; slots, sites, rate, strength by hand (benchmarks/trials.md)",
    ),
    ("layerwise", "Playground"): replace(
        _LAYERWISE,
        ours=replace(
            _LAYERWISE.ours,
            stages=(Stage((*_ROWS, *_TOKENS), 3e-2),),
            steps=120,
            batch_size=16,
            schedule="constant",
        ),
        measured=_MEASURED,
    ),
    ("nested", "Playground"): replace(
        _NESTED,
        ours=replace(
            _NESTED.ours, stages=(Stage(("nested_values.",), 3e-2),), steps=120, batch_size=16, schedule="constant"
        ),
        measured=_MEASURED,
    ),
    ("staged", "Playground"): replace(
        _STAGED,
        ours=replace(
            _OURS_STAGED, stages=_staged(5e-3, 3e-3, 3e-3, 500), steps=240, reach=240, batch_size=16, strength=0.8
        ),
        measured=f"{_MEASURED}, --ablations",
    ),
    ("staged fast", "Playground"): replace(
        _STAGED_FAST,
        ours=replace(
            _STAGED_FAST.ours,
            stages=_staged(5e-3, 8e-3, 2.5e-2, 200, uncaptioned=True),
            optimizer=MUON,
            steps=192,
            reach=110,
            batch_size=8,
            strength=0.7,
        ),
        measured=f"{_MEASURED}; optimiser, rates, schedule, strength by hand (benchmarks/trials.md)",
    ),
}


# Which sites a role uses, for all that is not here: every one.
# Playground, measured (bench sites): both roles sit in the decoder. One row a site, learned there alone, brings less: a
# subject closes 0.217 instead of 0.275, a style 0.561 with less of the prompt instead of 0.574. Of sixteen a subject's
# bring as much there, in less time and with more of the prompt; a style keeps them all (benchmarks/trials.md).
# The others are as published and not measured by us.
# SDXL: the two blocks that B-LoRA (arXiv 2403.14572) learns, output.0 for content and output.1 for style; InstantStyle
# (arXiv 2404.02733) finds the style of cross-attention in output.1 too.
# SD 1.5 and 2: the outer, finer layers, which P+ (arXiv 2303.09522) finds to carry colour and style, not shape.
_OUTER = ("input.1.*", "input.2.*", "input.4.*", "input.5.*", *(f"output.{number}.*" for number in range(6, 12)))
_B_LORA = ("output.0.*", "output.1.*")
_LAYERED = ("staged", "staged fast")
_ROWS_AND_VALUES = ("quick", "layerwise", "nested")
SITES: dict[tuple[str, str, str], tuple[str, ...]] = {
    **{("quick", "Playground", role): ("output.*",) for role in ("subject", "both")},
    **{(method, "SDXL", role): _B_LORA for method in _LAYERED for role in ("subject", "both")},
    **{(method, "SDXL", "style"): _B_LORA[1:] for method in (*_LAYERED, *_ROWS_AND_VALUES)},
    **{(method, family, "style"): _OUTER for method in (*_LAYERED, *_ROWS_AND_VALUES) for family in ("SD 1.5", "SD 2")},
}


# What a style takes instead of its method's own, found by hand on the playground (benchmarks/trials.md). A subject and
# a style that meet both change the same layers: with the style somewhat weaker, most of both is kept.
STYLES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("staged fast", "Playground"): {"strength": 0.65},
    ("quick", "Playground"): {
        "strength": 0.8,
        "stages": (Stage(_ROWS, 3e-2),),
        "steps": 72,
        "batch_size": 16,
        "slots": 16,
    },
}


def sourced(method: str, family: str) -> Sourced:
    """Both recipes of `method` on `family`; ValueError where the pair is not supported."""
    if (method, family) not in RECIPES:
        raise ValueError(
            f"There is no recipe for '{method}' on {family}; there are {', '.join(_known())}. "
            "Load a checkpoint of one of these families."
        )
    return RECIPES[method, family]


def recipe_for(method: str, family: str, role: str) -> Recipe:
    """Our recipe of `method` on `family` with the training captions of `role`.

    A style takes 0.6 of a subject's steps, as in CoAR (600 of 1000), and no attention regulariser: it is nowhere in the
    picture in particular, and comes nearer without (benchmarks/trials.md).
    """
    ours = replace(sourced(method, family).ours, sites=SITES.get((method, family, role), ()))
    if role != "style":
        return ours
    fewer = replace(ours.unregulated(), templates=IN_STYLE[: len(ours.templates)], steps=round(0.6 * ours.steps))
    return replace(fewer, **STYLES.get((method, family), {}))


def _known() -> list[str]:
    return [f"{method} on {family}" for method, family in RECIPES]
