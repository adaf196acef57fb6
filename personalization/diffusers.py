"""The same concepts in diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline.

    woven = weave(pipe, (as_recommended(load("mug.safetensors")),))
    picture = pipe("a photo of <mug> on the beach").images[0]
    print(*(report.sentence for report in woven.reports()), sep="\\n")
    woven.remove()

Words, roles, regions, windows and strengths are those of ComfyUI. Two things differ: parentheses are text, as in any
prompt of diffusers, and low-rank layers act beside the weights even where ComfyUI merges them, to the same result.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .composition import Composition, PlacedConcept, woven
from .concept import Base, channel_spans
from .denoiser import Slots
from .fit import fits
from .parts.low_rank import LowRank
from .pipeline.unet import Now, PipelineBlock, SiteProcessor, sites_of
from .pipeline.words import Words
from .plan import Call, Chunk, Window, planned_beside
from .prompt import Mark, aside, phrase_rows, slots_of
from .report import Report, Run, reports
from .sites import Site

log = logging.getLogger("concept_loom")

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}
KEPT = 16  # encodings that are known by what they hold when they come back by hand
Marked = Mapping[str, Sequence[tuple[int, Mark]]]  # encoder -> rows and marks of one prompt
Sides = Sequence[Sequence[Marked]]  # of prompts, and of negative prompts
Pipeline = StableDiffusionPipeline | StableDiffusionXLPipeline


def weave(pipe: Pipeline, composition: Composition) -> Woven:
    """Let the composition act in `pipe`, beside what was woven before. ValueError where it cannot."""
    before = getattr(pipe.__dict__.get("encode_prompt"), "__self__", None)
    base = base_of(pipe)
    for placed in composition:
        fits(placed.concept, base)
    if isinstance(before, Woven):
        before.remove()
        composition = woven(before.composition, composition)
    return Woven(pipe, base, woven((), composition))


def base_of(pipe: Pipeline) -> Base:
    """What a concept must know of this pipeline; ValueError when its family is not supported."""
    encoders = {key: encoder.get_input_embeddings().weight.shape[1] for key, (_, encoder) in _encoders(pipe).items()}
    context, shapes = sum(encoders.values()), tuple(shape for shape, _ in sites_of(pipe.unet))
    family = "SDXL" if isinstance(pipe, StableDiffusionXLPipeline) else {768: "SD 1.5", 1024: "SD 2"}.get(context)
    widths = sorted({shape.context for shape in shapes})
    if family is None or widths != [context]:
        raise ValueError(
            f"This {type(pipe).__name__} has text encoders of {list(encoders.values())} channels and text attention of "
            f"{widths}. Concepts act in SD 1.5, SD 2 and SDXL pipelines so far. Load one of these."
        )
    prediction = PREDICTIONS.get(pipe.scheduler.config.get("prediction_type", "epsilon"), "")
    return Base(family, context, encoders, shapes, prediction, "", str(getattr(pipe, "name_or_path", "") or ""))


def _encoders(pipe: Pipeline) -> dict[str, tuple[Any, Any]]:
    """Key -> tokenizer's attribute and text encoder, in the order of their channels."""
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    if pipe.text_encoder is None or (xl and pipe.text_encoder_2 is None):
        raise ValueError(
            f"This {type(pipe).__name__} has no text encoder; a concept's word is written in it. Weave while the "
            "pipeline is whole, and take the encoder away behind encode_prompt."
        )
    if xl:
        return {"l": ("tokenizer", pipe.text_encoder), "g": ("tokenizer_2", pipe.text_encoder_2)}
    wide = pipe.text_encoder.get_input_embeddings().weight.shape[1] == 1024
    return {"h" if wide else "l": ("tokenizer", pipe.text_encoder)}


class Encoding(NamedTuple):
    """One encoded prompt (tokens, d), and the slots that stand in it."""

    rows: Tensor
    slots: tuple[Slots, ...]


class Side(NamedTuple):
    """Prompts or negative prompts as `encode_prompt` returned them (samples, tokens, d), and each sample's slots."""

    encoded: Tensor
    slots: list[tuple[Slots, ...]]


class Woven:
    """A composition in a pipeline, until `remove`; no weight is changed."""

    def __init__(self, pipe: Pipeline, base: Base, composition: Composition) -> None:
        self.pipe, self.base, self.composition, self.now = pipe, base, composition, Now()
        self.spans, self.encodings = channel_spans(base.encoders), list[Encoding]()
        self.hashes = {placed.word: placed.concept.hash for placed in composition}
        self._said: Any = WeakTensorKeyDictionary()  # what encode_prompt returned -> slots per sample
        self._heard: Any = WeakTensorKeyDictionary()  # what arrives at the UNet -> the same
        self._sides = list[Side]()  # of the last encode_prompt, in the order in which guidance joins them
        last = pipe.scheduler.config.get("num_train_timesteps", 1000) - 1
        self.windows = {one.word: _window(one, last) for one in composition if (one.start, one.end) != (0, 1)}
        self._hook()

    def _hook(self) -> None:
        encoders, unet = _encoders(self.pipe), self.pipe.unet
        self.words = {
            key: Words(key, getattr(self.pipe, name), one, self.composition) for key, (name, one) in encoders.items()
        }
        self.tokenizers = {name: self.words[key] for key, (name, _) in encoders.items()}
        found = list(sites_of(unet))
        self.at_sites: list[SiteProcessor | PipelineBlock] = []
        try:
            for shape, block in found:
                for attention in (block.get_submodule("attn1"), block.get_submodule("attn2")):
                    one = SiteProcessor(shape.site, cast(Attention, attention), self.now)  # one that refuses ends it
                    self.at_sites.append(one)
            if any(placed.concept.has(LowRank) for placed in self.composition):
                self.at_sites += [PipelineBlock(shape, block, self.now) for shape, block in found]
            before = unet.register_forward_pre_hook(self._plan, with_kwargs=True)
            self.hooks = [before, unet.register_forward_hook(self._done, always_call=True)]
        except ValueError:
            self._take_off()
            raise
        self._encode = self.pipe.encode_prompt
        self.pipe.__dict__["encode_prompt"] = self.encode_prompt

    def remove(self) -> None:
        """The pipeline as it was, bit for bit."""
        for hook in self.hooks:
            hook.remove()
        self._take_off()
        self.pipe.__dict__.pop("encode_prompt", None)

    def _take_off(self) -> None:
        for one in (*self.at_sites, *self.words.values()):
            one.remove()

    def reports(self) -> tuple[Report, ...]:
        """What became of each concept since prompts were last encoded."""
        return reports(self.composition, self.now.run, frozenset(shape.site for shape in self.base.sites))

    def encode_prompt(self, *args: object, **kwargs: object) -> tuple[Tensor | None, ...]:
        """As the pipeline's own, for prompts with placeholders."""
        given = inspect.signature(self._encode).bind(*args, **kwargs).arguments
        texts = _texts(given, list(self.words), "prompt"), _texts(given, list(self.words), "negative_prompt")
        every = [text for side in texts for one in side for text in one.values()]
        self.now.run = Run(known={placed.word for placed in self.composition})
        for text in every:
            self.now.run.aside |= aside(text, self.composition)
        out = [None if one is None else one.clone() for one in self._encoded("", args, kwargs)]
        marked = [[{key: self._marks(key, text) for key, text in one.items()} for one in side] for side in texts]
        self._splice(out, marked, args, kwargs)
        names = "prompt_embeds", "negative_prompt_embeds"
        sides = zip(out[:2], marked, map(given.get, names), strict=True)
        self._sides = [Side(one, self._slots(one, side, own)) for one, side, own in sides if one is not None][::-1]
        for side in self._sides:
            self._keep(side)
        return tuple(out)

    def _marks(self, key: str, text: str) -> list[tuple[int, Mark]]:
        """In the text as the pipeline gives it to the tokenizer: loaded embeddings of several vectors are spelt out."""
        words = self.words[key]
        return words.marks(cast(str, self.pipe.maybe_convert_prompt(text, words.plain)))

    def _slots(self, encoded: Tensor, side: Sequence[Marked], given: Tensor | None) -> list[tuple[Slots, ...]]:
        """Of each sample: as its prompt says, or as where its encoding was made, or by what it holds."""
        if given is None:  # the last row is the prompt's end even where a word was cut off there
            said = [slots_of(marked, encoded.shape[1] - 1, self.hashes) for marked in side] or [()]
        else:
            said = self._said[given] if given in self._said else [self._slots_in(sample) for sample in given]
        return [slots for slots in said for _ in range(len(encoded) // len(said))]

    def _encoded(self, only: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor | None, ...]:
        """By the pipeline itself, with our tokenizers in place of its own; `only` silences every other word."""
        own = {name: getattr(self.pipe, name) for name in self.tokenizers}
        try:
            for name, words in self.tokenizers.items():
                words.only = only
                object.__setattr__(self.pipe, name, words)  # the pipeline would note it in its configuration
            return self._encode(*args, **kwargs)
        finally:
            for name, tokenizer in own.items():
                object.__setattr__(self.pipe, name, tokenizer)

    def _splice(self, out: list[Tensor | None], marked: Sides, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Identity mask (arXiv 2508.07341): each concept's rows are those of an encoding in which it is alone."""
        said = {mark.word for side in marked for one in side for marks in one.values() for _, mark in marks}
        words = sorted(one.word for one in self.composition if one.word in said and one.concept.embeddings)
        for word in words if len(words) > 1 else ():
            alone = self._encoded(word, args, kwargs)
            for encoded, own, side in zip(out[:2], alone[:2], marked, strict=True):
                if encoded is None or own is None or not side:
                    continue
                for number, one in enumerate(side):
                    samples = _samples(number, len(side), len(encoded))
                    for key, marks in one.items():
                        for row in phrase_rows(marks, word, encoded.shape[1] - 1):
                            encoded[samples, row, self.spans[key]] = own[samples, row, self.spans[key]]

    def _keep(self, side: Side) -> None:
        """Remember what stands where, for encodings that are given by hand."""
        self._said[side.encoded] = side.slots
        new = [Encoding(rows, slots) for rows, slots in zip(side.encoded, side.slots, strict=True)]
        self.encodings = [*new, *self.encodings][: max(KEPT, len(new))]

    def _plan(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("sample", "timestep", "encoder_hidden_states")
        sample, timestep, states = (args[n] if n < len(args) else kwargs[name] for n, name in enumerate(names))
        now, heard = self.now, self._heard_in(states)
        now.size = sample.shape[-2], sample.shape[-1]
        steps = torch.as_tensor(timestep, device=sample.device).float().expand(len(sample))
        for word, window in self.windows.items():
            inside = window.start >= float(steps[0]) >= window.end
            now.run.steps_inside = {**now.run.steps_inside, word: now.run.steps_inside.get(word, 0) + inside}
        chunks = tuple(Chunk(n, 1, slots, states.shape[1]) for n, slots in enumerate(heard) if slots)
        call = Call(chunks, states.shape[1], steps)
        now.plan = planned_beside(self.composition, call, self.spans, self.windows)
        now.run.merged = {one.word: _layer_sites(one) for one in self.composition if one.merges}

    def _done(self, *_: object) -> None:
        self.now.plan = None

    def _heard_in(self, states: Tensor) -> list[tuple[Slots, ...]]:
        """The slots of each sample; a pipeline hands on one tensor at every step.

        By their places where these are the prompts that were last encoded, with guidance or without: two prompts may
        be encoded alike and only one of them hold the word. Else by what the rows hold.
        """
        if states not in self._heard:
            joined = [_joined(self._sides)] if len({side.encoded.shape[1:] for side in self._sides}) == 1 else []
            known = (side for side in (*joined, *self._sides[::-1]) if _same_rows(side.encoded, states))
            by_place = next((side.slots for side in known), None)
            self._heard[states] = heard = by_place or [self._slots_in(sample) for sample in states]
            written = {slots.word for one in heard for slots in one}
            self.now.run.written |= written
            self.now.run.reached |= written
            for report in self.reports():
                if report.word not in written and report.warns:
                    log.warning(report.sentence)
        return self._heard[states]

    def _slots_in(self, sample: Tensor) -> tuple[Slots, ...]:
        return next((one.slots for one in self.encodings if _same_rows(one.rows, sample)), ())


def _joined(sides: Sequence[Side]) -> Side:
    """What classifier-free guidance makes of them: negative prompts before prompts."""
    return Side(torch.cat([side.encoded for side in sides]), [slots for side in sides for slots in side.slots])


def _same_rows(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one.to(two), two)


def _samples(number: int, texts: int, samples: int) -> slice:
    """The samples of one of several prompts, each of which is drawn equally often."""
    times = samples // texts
    return slice(number * times, (number + 1) * times)


def _texts(given: Mapping[str, Any], encoders: Sequence[str], name: str) -> list[dict[str, str]]:
    """Per prompt its text for each encoder; none where the pipeline was given encodings."""
    first = given.get(name)
    if first is None or given.get(f"{name}_embeds") is not None:
        return []
    second = given.get(f"{name}_2") or first
    sides = [[one] if isinstance(one, str) else list(one) for one in (first, second)][: len(encoders)]
    return [dict(zip(encoders, one, strict=True)) for one in zip(*sides, strict=True)]


def _window(placed: PlacedConcept, last: int) -> Window:
    """In timesteps, which fall as sigma does; the ends are open, as in ComfyUI."""
    start = float("inf") if placed.start <= 0 else (1 - placed.start) * last
    return Window(start, 0.0 if placed.end >= 1 else (1 - placed.end) * last)


def _layer_sites(placed: PlacedConcept) -> set[Site]:
    return {site for part in placed.concept.parts if isinstance(part, LowRank) for site in part.sites}
