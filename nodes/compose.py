"""Place Concept and Compose Concepts.

One Autogrow grows sockets of a single type, and neither it nor the page (1.47) takes a group of inputs per socket
(DynamicSlot). So how a concept is used is a node of its own, chained before Compose where it is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import comfy.model_patcher
import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..personalization.comfyui.canvas import refuse_other_clip
from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.family import base_of, merges_itself, packed_as
from ..personalization.comfyui.patch import weave_model
from ..personalization.composition import Composition, PlacedConcept, narrowed
from ..personalization.concept import ROLES
from ..personalization.fit import fits
from .reports import Teller
from .sockets import CATEGORY, SPEAKS, Concept
from .wiring import watch_prompt

AS_LEARNED = "as learned"
MOST_CONCEPTS = 20


class PlaceConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_PlaceConcept",
            display_name="Place Concept",
            category=CATEGORY,
            description="How one concept is used: how strongly, as what, when and where. Goes before Compose Concepts.",
            search_aliases=[
                "concept strength",
                "concept region",
                "regional concept",
                "mask concept",
                "schedule concept",
            ],
            inputs=[
                Concept.Input("concept", tooltip="From Learn Concept or Load Concept."),
                strength_input(
                    "0: its class word alone, as if it had not been learned. 1: as its file recommends (by its "
                    "method or Strength Sheet), else as learned. Higher insists on it and obeys the rest of the prompt "
                    "less.",
                ),
                io.Combo.Input(
                    "role",
                    options=[AS_LEARNED, *ROLES],
                    default=AS_LEARNED,
                    tooltip="Narrows a concept that was learned as both. subject: its low-rank layers change its own "
                    "words only. style: it draws as both does. Rows act alike in every role.",
                ),
                _percent(
                    "start",
                    0.0,
                    "Share of sampling after which it acts. Higher leaves the layout to the model.",
                ),
                _percent(
                    "end",
                    1.0,
                    "Share of sampling until which it acts. Lower leaves fine detail to the model.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Where in the picture it acts: white fully, grey partly, black not at all. Any size.",
                ),
                io.Boolean.Input(
                    "sparing",
                    optional=True,
                    default=True,
                    tooltip="For concepts with low-rank layers (staged, staged fast, imported LoRAs). On: its layers "
                    "act only in prompts with its word, a subject's leave the prompt's other words alone, and they "
                    "take a little time. Off: they are merged into the model as a LoRA's are, at no cost and in every "
                    "prompt, the negative one too; likeness falls.",
                    advanced=True,
                ),
                focus_input(
                    "How strictly the picture looks for its word: attention logits of the word times this. 1: "
                    "as the prompt has it. Higher gathers the concept where the picture already looks for it, lower "
                    "spreads it and leaves more to the rest of the prompt. Not together with a region.",
                ),
            ],
            outputs=[Concept.Output("concept", tooltip="The same concept, placed.")],
        )

    @classmethod
    def execute(
        cls,
        concept: PlacedConcept,
        strength: float,
        role: str,
        start: float = 0.0,
        end: float = 1.0,
        region: Tensor | None = None,
        sparing: bool = True,
        focus: float = 1.0,
    ) -> io.NodeOutput:
        _refuse_empty_window(start, end)
        area = None if region is None else region.reshape(-1, *region.shape[-2:])[0].float().cpu()
        if area is not None and not area.any():
            raise ValueError(
                f"The region of <{concept.word}> is black everywhere, as the mask of a picture without transparency "
                "is; white is needed where the concept shall act. Paint a mask, or disconnect region."
            )
        if area is not None and focus != 1:
            raise ValueError(
                f"<{concept.word}> has a region and a focus of {focus:g}; a focus acts in the whole picture. Set focus "
                "to 1, or disconnect region."
            )
        strength *= concept.concept.info.strength
        placed = replace(concept, strength=strength, start=start, end=end, region=area, sparing=sparing, focus=focus)
        return io.NodeOutput(placed if role == AS_LEARNED else narrowed(placed, role))


class ComposeConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_ComposeConcepts",
            display_name="Compose Concepts",
            category=CATEGORY,
            description="Weaves concepts into MODEL and CLIP. Write their words, such as <mug>, in any prompt made "
            "with this CLIP. After sampling the node says where each of them acted, or why it did not.",
            search_aliases=["apply concept", "use concept", "combine concepts", "multi concept", "concept stack"],
            # The report is told to this node: ComfyUI would else reuse the result of an equal one.
            not_idempotent=True,
            **SPEAKS,
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model to draw with; LoRAs and other patches may come before or after."
                ),
                io.Clip.Input(
                    "clip", tooltip="Its CLIP; every prompt with a concept's word must come from our output."
                ),
                io.Autogrow.Input(
                    "concepts",
                    template=io.Autogrow.TemplatePrefix(
                        Concept.Input("concept", tooltip="A concept with a word of its own."),
                        prefix="concept",
                        min=1,
                        max=MOST_CONCEPTS,
                    ),
                    tooltip="One socket more appears for each that is connected.",
                ),
                strength_input(
                    "Multiplies the strength of every concept here: 0 writes their class words, 1 is as "
                    "each file recommends, more insists on them and obeys the rest of the prompt less.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="For the sampler."),
                io.Clip.Output("clip", tooltip="For the prompts."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        concepts: dict[str, PlacedConcept],
        strength: float,
    ) -> io.NodeOutput:
        placed = _together(one for one in concepts.values() if one is not None)
        composition = tuple(replace(one, strength=strength * one.strength) for one in placed)
        woven = composed(composition, model, clip, cls.hidden.unique_id)
        return io.NodeOutput(woven.model, woven.clip, ui={"text": woven.notes})

    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> str:
        """Always the same: this is called once in every prompt, also where the result is kept from an earlier one."""
        watch_prompt()
        return ""


class Composed(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    notes: tuple[str, ...]


def composed(
    composition: Composition, model: comfy.model_patcher.ModelPatcher, clip: comfy.sd.CLIP, node: str
) -> Composed:
    """MODEL and CLIP with the composition woven in, which will tell `node` what became of it."""
    notes = _notes(composition, model, clip)
    watch_prompt()
    woven = weave_model(model, composition, Teller(node, composition)), weave_clip(clip, composition)
    return Composed(*woven, notes)


def strength_input(tooltip: str) -> io.Input:
    return io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05, tooltip=tooltip)


def focus_input(tooltip: str) -> io.Input:
    return io.Float.Input(
        "focus", optional=True, default=1.0, min=0.0, max=3.0, step=0.05, tooltip=tooltip, advanced=True
    )


def _percent(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, optional=True, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, advanced=True
    )


def _refuse_empty_window(start: float, end: float) -> None:
    if start >= end:
        raise ValueError(
            f"The concept is to act from {start:.0%} to {end:.0%} of sampling, which is no time at all; start must be "
            "before end. Swap them, or set strength to 0 to switch it off."
        )


def _together(concepts: Iterable[PlacedConcept]) -> Composition:
    """Concepts with a word each: in one node a second one of the same word would silently replace the first."""
    by_word: dict[str, PlacedConcept] = {}
    for placed in concepts:
        if placed.word in by_word:
            raise ValueError(
                f"Two concepts have the word <{placed.word}>; each needs one of its own. "
                "Give one of them another placeholder on Load Concept or Learn Concept."
            )
        by_word[placed.word] = placed
    return tuple(by_word.values())


def _notes(composition: Composition, model: comfy.model_patcher.ModelPatcher, clip: comfy.sd.CLIP) -> tuple[str, ...]:
    """What is worth knowing; ValueError where a concept cannot act here."""
    base = base_of(model)
    refuse_other_clip(clip, base)
    _refuse_merging(composition, model)
    return tuple(filter(None, (fits(placed.concept, base) for placed in composition)))


def _refuse_merging(composition: Composition, model: comfy.model_patcher.ModelPatcher) -> None:
    packed, merged = packed_as(model), [one.word for one in composition if one.merges]
    if packed and merged and not merges_itself(model):
        raise ValueError(
            f"The layers of <{merged[0]}> are to be merged into this MODEL's weights, which are packed as {packed} by "
            "a pack that merges none; weights of a floating-point type are needed. Turn sparing on at Place Concept, "
            "which leaves weights alone, or load the model as a checkpoint in fp16, bf16 or fp8."
        )
