"""Evaluate Concept and Strength Sheet: what a concept has learned, and how strongly to use it."""

from __future__ import annotations

import json
import logging

import comfy.model_patcher
import comfy.sd
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io, ui

from ..personalization.comfyui.canvas import Canvas
from ..personalization.comfyui.strengths import Reference, strength_sheet
from ..personalization.comfyui.trial import Effort, tried
from ..personalization.composition import PlacedConcept
from ..personalization.dataset import ConceptDataset
from .sockets import CATEGORY, SPEAKS
from .sockets import Concept as ConceptSocket
from .sockets import Dataset as DatasetSocket

log = logging.getLogger("concept_loom")

EFFORT = Effort()
LARGEST_SEED = 2**31 - 1
MOST_STRENGTH = 2.0


class EvaluateConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_EvaluateConcept",
            display_name="Evaluate Concept",
            category=CATEGORY,
            description="Draws prompts with the concept and, from the same noise, with its class word, and holds both "
            "against real pictures that were never learned from: likeness, overfitting, copies, obedience. Says which "
            "of them cannot be told here, and why.",
            search_aliases=["concept score", "test concept", "validate", "overfitting", "clip score", "compare"],
            **SPEAKS,
            inputs=[
                *_canvas(),
                DatasetSocket.Input(
                    "dataset",
                    tooltip="The dataset that it was learned from, with pictures held out. Another set judges "
                    "likeness, not overfitting.",
                ),
                _eyes(),
                _prompts("One per line, with the concept's word; <word> stands for any. Empty: a set for its role."),
                *_effort(),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="Real pictures, class word and concept, with their scores."),
                io.String.Output("table", tooltip="The scores in plain text, and what they mean."),
                io.String.Output("json", tooltip="The same scores for programs: per prompt and overall."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        concept: PlacedConcept,
        dataset: ConceptDataset,
        clip_vision: ClipVisionModel | None = None,
        prompts: str = "",
        seed: int = EFFORT.seed,
        seeds: int = EFFORT.seeds,
        steps: int = EFFORT.steps,
        cfg: float = EFFORT.guidance,
    ) -> io.NodeOutput:
        effort = Effort(seed, seeds, steps, cfg)
        found = tried(Canvas(model, clip, vae), concept, dataset, clip_vision, effort, prompts)
        told = "\n".join(filter(None, (found.card.table(), found.note)))
        log.info(told)
        shown = {"text": (told,), **ui.PreviewImage(found.sheet).as_dict()}
        return io.NodeOutput(found.sheet, told, json.dumps(found.data(), indent=2), ui=shown)


class StrengthSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_StrengthSheet",
            display_name="Strength Sheet",
            category=CATEGORY,
            description="The same picture at rising strengths, from the class word on, with likeness and obedience "
            "under each. Recommends a strength and writes it into the concept.",
            search_aliases=["concept strength", "best strength", "weight sweep", "xy plot", "lora strength"],
            **SPEAKS,
            inputs=[
                *_canvas(),
                DatasetSocket.Input(
                    "dataset", optional=True, tooltip="Real pictures to compare with. Without them nothing is scored."
                ),
                _eyes(),
                _prompts(
                    "One per line, with the concept's word; <word> stands for any. More lines judge better and take "
                    "longer. Empty: two for its role."
                ),
                io.Float.Input(
                    "highest",
                    default=1.4,
                    min=0.1,
                    max=MOST_STRENGTH,
                    step=0.1,
                    tooltip="The last strength; the first is 0. Higher shows where the concept begins to overpower.",
                ),
                io.Int.Input(
                    "columns",
                    optional=True,
                    default=8,
                    min=2,
                    max=21,
                    tooltip="How many strengths, evenly spread. More find the right one more exactly and take longer.",
                    advanced=True,
                ),
                *_effort(),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="A column per strength, the recommended one framed."),
                ConceptSocket.Output(
                    "concept", tooltip="The same concept at the recommended strength; Save Concept keeps it."
                ),
                io.String.Output("sentence", tooltip="Which strength, and why."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        concept: PlacedConcept,
        dataset: ConceptDataset | None = None,
        clip_vision: ClipVisionModel | None = None,
        prompts: str = "",
        highest: float = 1.4,
        columns: int = 8,
        seed: int = EFFORT.seed,
        seeds: int = EFFORT.seeds,
        steps: int = EFFORT.steps,
        cfg: float = EFFORT.guidance,
    ) -> io.NodeOutput:
        strengths = [round(highest * number / (columns - 1), 2) for number in range(columns)]
        effort, reference = Effort(seed, seeds, steps, cfg), Reference(dataset, clip_vision)
        found = strength_sheet(Canvas(model, clip, vae), concept, strengths, reference, effort, prompts)
        log.info(found.sentence)
        shown = {"text": (found.sentence,), **ui.PreviewImage(found.sheet).as_dict()}
        return io.NodeOutput(found.sheet, found.placed, found.sentence, ui=shown)


def _canvas() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model that it was learned on, or one of its family. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        ConceptSocket.Input("concept", tooltip="From Learn Concept, Load Concept or Place Concept."),
    ]


def _eyes() -> io.Input:
    return io.ClipVision.Input(
        "clip_vision",
        optional=True,
        tooltip="The image encoder that compares pictures. Without one nothing is scored. Text scores need the one "
        "that belongs to the CLIP.",
    )


def _prompts(tooltip: str) -> io.Input:
    return io.String.Input(
        "prompts",
        optional=True,
        multiline=True,
        default="",
        placeholder="a photo of <word> on the beach",
        tooltip=tooltip,
    )


def _effort() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed",
            optional=True,
            default=EFFORT.seed,
            min=0,
            max=LARGEST_SEED,
            control_after_generate=False,
            tooltip="The first noise; every row of pictures starts from the same.",
        ),
        io.Int.Input(
            "seeds",
            optional=True,
            default=EFFORT.seeds,
            min=1,
            max=8,
            tooltip="Pictures per prompt. More judge better and take longer.",
            advanced=True,
        ),
        io.Int.Input(
            "steps",
            optional=True,
            default=EFFORT.steps,
            min=1,
            max=100,
            tooltip="Sampling steps per picture. More draw finer and take longer.",
            advanced=True,
        ),
        io.Float.Input(
            "cfg",
            optional=True,
            default=EFFORT.guidance,
            min=1.0,
            max=20.0,
            step=0.5,
            tooltip="Guidance. Higher obeys the prompt more and looks harsher.",
            advanced=True,
        ),
    ]
