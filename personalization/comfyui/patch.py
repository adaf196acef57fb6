"""The patch: one for sampling and training. A composition on a MODEL acts where a conditioning holds its words.

Per sampling a run is opened (OUTER_SAMPLE), per step the conditionings are read (CALC_COND_BATCH), per model call a
plan is made (APPLY_MODEL). Per site one patch adds image tokens (attn1_patch), another edits the rows that the plan
names and adds banks (attn2_patch); what is added is met in the attention that follows (site_attention.py). Low-rank
layers are in the weights (low_rank.py) or act around all of that (acting_block.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import cast

import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ..composition import Composition, PlacedConcept, woven
from ..concept import Base, channel_spans
from ..denoiser import Observer
from ..fit import fits
from ..guests import bring
from ..parts.context_rows import ContextRows
from ..parts.image_tokens import ImageTokens
from ..parts.instruction import LatentInstruction
from ..parts.nested_values import NestedValues
from ..plan import Call, Chunk, Plan, Window, planned, planned_beside
from ..reading import with_guests, with_image_tokens, with_rows
from ..regions import Grid
from ..report import Report, Run, reports
from ..rows import RowCache
from ..site_attention import SiteAttention, Watched
from ..sites import Site
from .concept_clip import KEY
from .family import base_of
from .graph import route_here
from .hearing import Heard, Hearing
from .host_types import Options, Sampling
from .low_rank import merged_sites, weave_layers

log = logging.getLogger("concept_loom")

Listener = Callable[[tuple[Report, ...]], None]


@dataclass(frozen=True)
class Loom:
    """The one place of a composition on a MODEL: `transformer_options["concept_loom"]`, replaced, never changed.

    It has no `.to`: the host casts patches that have one to the model's dtype, for good.
    """

    base: Base
    composition: Composition = ()
    listeners: Mapping[str, Listener] = field(default_factory=dict)  # word -> who asked to be told
    run: Run | None = None  # while sampling
    windows: Mapping[str, Window] | None = None  # ... and then known: the host waits for the device to compute a sigma
    hearing: Hearing | None = None  # ... which reads every conditioning once
    heard: Mapping[tuple[int, object], Heard] = field(default_factory=dict)  # (list index, uuid) -> conditioning
    batch: int = 1  # ... and its samples
    plan: Plan | None = None  # while a model call runs
    attention: SiteAttention | None = None  # ... in which rows alone are not enough
    merged: frozenset[str] = frozenset()  # words whose low-rank layers are in the weights
    beside: bool = False  # the model's weights are never changed: what would be merged acts beside them
    owned: Mapping[str, frozenset[object]] = field(default_factory=dict)  # "attn1", "attn2" -> keys that others replace
    observer: Observer | None = None  # in training
    cache: RowCache = field(default_factory=RowCache)

    def with_concepts(self, composition: Composition, listener: Listener | None) -> Loom:
        told = {placed.word: listener for placed in composition if listener}
        kept = {word: one for word, one in self.listeners.items() if word not in {p.word for p in composition}}
        return replace(self, composition=woven(self.composition, composition), listeners=kept | told)

    def listening(self, run: Run) -> Hearing:
        return Hearing(self.composition, channel_spans(self.base.encoders), run)

    @property
    def sites(self) -> frozenset[Site]:
        return frozenset(shape.site for shape in self.base.sites)


def weave_model(
    model: comfy.model_patcher.ModelPatcher, composition: Composition, listener: Listener | None = None
) -> comfy.model_patcher.ModelPatcher:
    """`model` on which the composition acts too; ValueError for a concept of another family.

    After each sampling `listener` is told what became of the concepts that were woven here.
    """
    woven_model = model.clone()
    options = woven_model.model_options["transformer_options"]
    loom = options.get(KEY) or Loom(base_of(model, fingerprint=False))
    for placed in composition:
        fits(placed.concept, loom.base)
    loom = loom.with_concepts(composition, listener)
    options[KEY] = replace(loom, merged=weave_layers(woven_model, loom.composition))
    _hook(woven_model)
    return woven_model


def composition_of(model: comfy.model_patcher.ModelPatcher) -> Composition:
    loom = model.model_options["transformer_options"].get(KEY)
    return loom.composition if loom else ()


def _hook(model: comfy.model_patcher.ModelPatcher) -> None:
    """Once per model, however often it is composed."""
    for kind, wrapper in WRAPPERS.items():
        if not model.get_wrappers(kind, KEY):
            model.add_wrapper_with_key(kind, KEY, wrapper)
    patches = model.model_options["transformer_options"].get("patches", {})
    for name, patch in PATCHES.items():
        if patch not in patches.get(name, []):
            model.set_model_patch(patch, name)


# TorchCompileModel drops the guards on what the host hands a patch, and ours go by Python values in there: which sites,
# which samples. A compiler would write those of one call into all that follow.
@torch.compiler.disable
def add_image_tokens(n: Tensor, context: Tensor, value: Tensor, extra: Options):
    """attn1_patch: the image tokens of the concepts that are present, behind the picture's own."""
    loom: Loom | None = extra.get(KEY)
    if not loom or not loom.plan or not loom.attention or "block" not in extra:
        return n, context, value
    site, attention = _site(extra), loom.attention
    attention.hidden = n if loom.observer else None
    guests = bring(ImageTokens, site, loom.plan.present)
    if guests and _lost(site, "attn1", extra, n, loom):
        _note(loom.run, "placeless", site, (presence.placed for presence, _ in guests))
        return n, context, value
    reading = with_image_tokens(context, value, site, loom.plan, _grid(extra), loom.cache)
    attention.expected = reading.expected
    _note(loom.run, "acted", site, reading.acting)
    return n, reading.context, reading.value


@torch.compiler.disable
def edit_context(n: Tensor, context: Tensor, value: Tensor, extra: Options):
    """attn2_patch: what the plan of this call says about this site; `value is context` stays true."""
    loom: Loom | None = extra.get(KEY)
    if not loom or not loom.plan or "block" not in extra:
        return n, context, value
    site, plan, attention = _site(extra), loom.plan, loom.attention
    # another pack has put prompts of its own into the batch, or a shorter one in the place of what the plan is of
    if context.shape[0] != extra["activations_shape"][0] or context.shape[1] < plan.tokens:
        rows = (one.placed for one in plan.everywhere if one.placed.concept.has(ContextRows))
        _note(loom.run, "placeless", site, (*rows, *_in_attention(plan)))
        return n, context, value
    reading = with_rows(context, value, site, plan, loom.cache)
    _note(loom.run, "acted", site, reading.acting)
    if attention is None:
        return n, reading.context, reading.value
    if _lost(site, "attn2", extra, n, loom):
        _note(loom.run, "placeless", site, _in_attention(plan))
        return n, reading.context, reading.value
    watched = loom.observer and Watched(loom.observer, site, cast(Tensor, attention.hidden))
    reading = with_guests(reading.context, reading.value, site, plan, _grid(extra), loom.cache, watched)
    attention.expected = reading.expected
    _note(loom.run, "acted", site, reading.acting)
    return n, reading.context, reading.value


def _site(extra: Options) -> Site:
    return Site(*extra["block"], index=extra.get("block_index", 0))


def _grid(extra: Options) -> Grid:
    height, width = extra["activations_shape"][-2:]
    return height, width


def _lost(site: Site, layer: str, extra: Options, n: Tensor, loom: Loom) -> bool:
    """Whether another pack replaces the site's attention, or cut the picture's tokens apart."""
    grid, samples = _grid(extra), extra["activations_shape"][0]
    return bool(loom.owned[layer] & {extra["block"], tuple(site)}) or n.shape[:2] != (samples, grid[0] * grid[1])


def _in_attention(plan: Plan) -> Iterable[PlacedConcept]:
    """Who needs more of the text's attention than rows to read: rows in a region, values and instructions."""
    regional = (one.placed for one in plan.regional if one.placed.concept.has(ContextRows))
    return (*regional, *(one.placed for one in plan.present if one.placed.concept.has(NestedValues, LatentInstruction)))


def _note(run: Run | None, what: str, site: Site, concepts: Iterable[PlacedConcept]) -> None:
    for placed in concepts:
        if run is not None and any(site in part.sites for part in placed.concept.parts):
            run.note(what, placed.word, site)


def open_run(
    executor: WrapperExecutor, noise: Tensor, latent: Tensor, sampler: object, sigmas: Tensor, *args, **kwargs
):
    guider = cast(comfy.samplers.CFGGuider, executor.class_obj)
    options = guider.model_options.setdefault("transformer_options", {})
    loom: Loom | None = options.get(KEY)
    if loom is None:
        return executor(noise, latent, sampler, sigmas, *args, **kwargs)
    sampling = cast(Sampling, guider.model_patcher.get_model_object("model_sampling"))
    windows = _windows(loom.composition, sampling)
    route = route_here()
    run = Run(
        _steps_inside(sigmas.tolist(), windows),
        merged=merged_sites(guider.model_patcher),
        spoken=route.spoken,
        changers=route.changers,
        idle="" if len(sigmas) > 1 else route.node,
    )
    options[KEY] = replace(loom, run=run, windows=windows, hearing=loom.listening(run))
    out = executor(noise, latent, sampler, sigmas, *args, **kwargs)
    if unheard := {placed.word for placed in loom.composition} - run.written:
        run.left_out |= _words_in(guider.conds, loom, noise) & unheard
    _tell(loom, reports(loom.composition, run, loom.sites))
    return out


def _words_in(conds: Mapping[str, list], loom: Loom, noise: Tensor) -> set[str]:
    """The words of all prompts that a guider was given, whichever of them it passes on."""
    run = Run()
    loom.listening(run).heard_in(list(conds.values()), noise)
    return run.written


def read_conditionings(executor: WrapperExecutor, model: object, conds: list, x: Tensor, t: Tensor, options: Options):
    loom: Loom | None = options.get("transformer_options", {}).get(KEY)
    if loom is not None:
        hearing = loom.hearing or loom.listening(Run())
        heard = hearing.heard_in(conds, x, _frames_of(options["transformer_options"]))
        loom = replace(loom, heard=heard, batch=len(x))
        options = {**options, "transformer_options": {**options["transformer_options"], KEY: loom}}
    return executor(model, conds, x, t, options)


def _frames_of(options: Options) -> Sequence[int]:
    """The numbers of an animation's frames where the host samples some of them at a time; () where it samples all."""
    window = options.get("context_window")
    if window is None:
        return ()
    anchor = getattr(window, "causal_anchor_index", None)  # a frame before the window's own; not in older hosts
    return window.index_list if anchor is None or anchor < 0 else [anchor, *window.index_list]


def plan_call(
    executor: WrapperExecutor,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: object = None,
    transformer_options: Options | None = None,
    **kwargs: object,
):
    options = transformer_options or {}
    loom: Loom | None = options.get(KEY)
    if loom is not None and loom.heard and c_crossattn is not None and "uuids" in options:
        tokens = c_crossattn.shape[1] // max(heard.rows for heard in loom.heard.values())
        call = Call(_chunks(loom, options, x.shape[0]), tokens, t)
        windows = loom.windows
        if windows is None:
            model = cast(comfy.model_base.BaseModel, executor.class_obj)
            windows = _windows(loom.composition, model.model_sampling)
        how = (loom.composition, call, channel_spans(loom.base.encoders), windows)
        plan = planned_beside(*how) if loom.beside else planned(*how, loom.merged)
        options = _with_plan(options, loom, plan)
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def ours_last(options: Options) -> Options:
    """`options` with our patches behind other packs': they are to see every site's tokens as the attention will.

    So the order of nodes does not matter, and what was learned beside a patch acts beside it.
    """
    patches = options.get("patches", {})
    last = {name: [*(one for one in patches.get(name, []) if one is not ours), ours] for name, ours in PATCHES.items()}
    return {**options, "patches": {**patches, **last}}


def _with_plan(options: Options, loom: Loom, plan: Plan) -> Options:
    options = ours_last(options)
    if plan.twins is None and not plan.present and loom.observer is None:
        return {**options, KEY: replace(loom, plan=plan)}
    attention = SiteAttention(options.get("optimized_attention_override"))
    replaced = options.get("patches_replace", {})
    owned = {layer: frozenset(replaced.get(layer, {})) for layer in ("attn1", "attn2")}
    loom = replace(loom, plan=plan, attention=attention, owned=owned)
    return {**options, KEY: loom, "optimized_attention_override": attention}


PATCHES = {"attn1_patch": add_image_tokens, "attn2_patch": edit_context}
WRAPPERS = {
    WrappersMP.OUTER_SAMPLE: open_run,
    WrappersMP.CALC_COND_BATCH: read_conditionings,
    WrappersMP.APPLY_MODEL: plan_call,
}


def _chunks(loom: Loom, options: Options, samples: int) -> tuple[Chunk, ...]:
    """Packs that draw in tiles join whole batches, tile by tile, and hand on the host's layout of one of them."""
    layout = [loom.heard.get(key) for key in zip(options["cond_or_uncond"], options["uuids"], strict=True)]
    words, run = {word for heard in layout if heard for word in heard.words}, loom.run or Run()
    run.reached |= words
    whole = loom.batch * len(layout)
    if samples % whole:
        run.jumbled |= words
        return ()
    found = ((number * loom.batch, heard) for number, heard in enumerate(layout * (samples // whole)))
    return tuple(chunk for start, heard in found if heard for chunk in _chunks_of(heard, start, loom.batch))


def _chunks_of(heard: Heard, start: int, size: int) -> Iterator[Chunk]:
    """The host gives the samples a conditioning's contexts in turn."""
    if len(heard.frames) == 1:
        yield Chunk(start, size, heard.frames[0], heard.length, heard.box)
        return
    for number, slots in zip(range(size), cycle(heard.frames), strict=False):
        yield Chunk(start + number, 1, slots, heard.length, heard.box)


def _windows(composition: Composition, sampling: Sampling) -> dict[str, Window]:
    return {placed.word: _window(placed, sampling) for placed in composition if (placed.start, placed.end) != (0, 1)}


def _window(placed: PlacedConcept, sampling: Sampling) -> Window:
    return Window(float(sampling.percent_to_sigma(placed.start)), float(sampling.percent_to_sigma(placed.end)))


def _steps_inside(sigmas: list[float], windows: Mapping[str, Window]) -> dict[str, int]:
    return {word: sum(w.start >= sigma >= w.end for sigma in sigmas[:-1]) for word, w in windows.items()}


def _tell(loom: Loom, told: tuple[Report, ...]) -> None:
    for report in told:
        log.log(logging.WARNING if report.warns else logging.INFO, report.sentence)
    listeners = {id(one): one for one in loom.listeners.values()}
    for listener in listeners.values():
        listener(tuple(report for report in told if loom.listeners.get(report.word) is listener))
