"""Learn Concept: trains on the MODEL, CLIP and VAE of the canvas; learned once, found again afterwards."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing

import comfy.model_patcher
import comfy.sd
from comfy_api.latest import io, ui

from ..personalization.comfyui.canvas import Canvas
from ..personalization.comfyui.lesson import Lesson, teach
from ..personalization.composition import as_recommended, used_at
from ..personalization.concept import ROLES
from ..personalization.curve import Curve
from ..personalization.dataset import ConceptDataset
from ..personalization.methods import AUTO, METHODS
from ..personalization.recipe import BATCH_SIZE, LEARNING_RATE, STEPS, Range
from ..personalization.wish import BUDGETS, Wish
from .failure import explained
from .folders import all_folders, name_of
from .progress import LearningProgress
from .sockets import CATEGORY, SPEAKS, Concept, Dataset

log = logging.getLogger("concept_loom")

LARGEST_SEED = 2**63 - 1
_cancelled: Counter[str] = Counter()  # by node id, since ComfyUI was started, as its cache


class LearnConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_LearnConcept",
            display_name="Learn Concept",
            category=CATEGORY,
            description="Learns what the pictures show, or how they look, on the model that is connected. Cancel keeps "
            "what is learned so far; queued again, also after a crash, it goes on from where it was. The concept is a "
            "small file in output/concepts; the same pictures, model and settings are never learned twice.",
            search_aliases=["train", "training", "finetune", "dreambooth", "textual inversion", "train lora"],
            **SPEAKS,
            hidden=[io.Hidden.unique_id],
            inputs=[*_canvas(), *_words(), *_effort(), *_overrides(), *_of_the_method()],
            outputs=[
                Concept.Output("concept", tooltip="For Compose Concepts. It is on disk already."),
                io.LossMap.Output("loss_map", tooltip="The training loss per step, for Plot Loss Graph."),
                io.Image.Output("preview", tooltip="What the model draws when it is asked for the concept."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        dataset: ConceptDataset,
        placeholder: str,
        class_word: str,
        role: str,
        method: str,
        budget: str,
        seed: int,
        steps: int = 0,
        learning_rate: float = 0.0,
        batch_size: int = 0,
        attractor: bool = False,
        soft_masks: bool = False,
        prior_preservation: bool = True,
        self_regularisation: bool = True,
        attention_regulariser: bool = True,
        settings: str = "",
    ) -> io.NodeOutput:
        numbers = (seed, steps, learning_rate, batch_size)
        terms = (prior_preservation, self_regularisation, attention_regulariser)
        wish = Wish(placeholder, class_word, role, method, budget, *numbers, attractor, soft_masks, *terms, settings)
        progress = LearningProgress(cls.hidden.unique_id)
        with closing(progress), explained(progress, wish, dataset, model) as show:
            lesson = teach(Canvas(model, clip, vae), dataset, wish, all_folders(), show)
        if not lesson.finished:
            _cancelled[cls.hidden.unique_id] += 1
        return _output(lesson, progress.curve)

    # A cancelled result must not come from ComfyUI's cache when it is queued again: then learning goes on.
    @classmethod
    def fingerprint_inputs(cls, **inputs: object) -> int:
        return _cancelled[cls.hidden.unique_id]


def _output(lesson: Lesson, curve: Curve) -> io.NodeOutput:
    told = "\n".join(
        filter(None, (*lesson.sentences, used_at(lesson.concept), f"The file is concepts/{name_of(lesson.path)}."))
    )
    log.info(told)
    placed = as_recommended(lesson.concept, lesson.word)
    pictures = [one for one in (lesson.picture, lesson.masked) if one is not None]
    images = [image for one in pictures for image in ui.PreviewImage(one).as_dict()["images"]]
    shown = {"text": (told,), "images": images, "animated": (False,)}
    shown |= {"concept": (name_of(lesson.path),), "peak_bytes": (lesson.peak,)}
    if drawn := curve.data():  # nothing to draw where it was found on disk
        shown["curve"] = (drawn,)
    return io.NodeOutput(placed, {"loss": list(lesson.concept.info.losses)}, lesson.picture, ui=shown)


def _canvas() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model to learn on, with the LoRAs that you will use. It is not changed."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        Dataset.Input("dataset", tooltip="The pictures, from Concept Dataset."),
    ]


def _words() -> list[io.Input]:
    return [
        io.String.Input(
            "placeholder",
            default="",
            placeholder="mug",
            tooltip="The word for prompts: mug is written as <mug>. Another word does not learn again.",
        ),
        io.String.Input(
            "class_word",
            default="",
            placeholder="mug",
            tooltip="What it is, in a word or two: mug, stuffed toy. Learning starts from what the model knows of it. "
            "For a style its kind (watercolor), or empty.",
        ),
        io.Combo.Input(
            "role",
            options=list(ROLES),
            default="subject",
            tooltip="subject: the thing in the pictures. style: how they are made. both: can be used as either.",
        ),
    ]


def _effort() -> list[io.Input]:
    return [
        io.Combo.Input(
            "method",
            options=[AUTO, *METHODS],
            default=AUTO,
            tooltip="auto: staged fast for a subject or a style from 3 pictures on, which came nearest of ours in our "
            "benches, else quick. quick: some rows per layer. layerwise: one and an image token per layer, held to the "
            "class. nested: values that depend on the place in the picture. staged: word, attention, then identity in "
            "low-rank layers; larger and slower, staged fast less so. textual inversion: one word, the smallest file "
            "and the least exact.",
        ),
        io.Combo.Input(
            "budget",
            options=list(BUDGETS),
            default="balanced",
            tooltip="How long it learns: fast is the method's own number of steps, balanced twice and thorough four "
            "times as many. More brings it closer to the pictures. The last moment is kept; with quick, layerwise, "
            "nested and textual inversion the best one, where two pictures or more are held out. After ten steps "
            "the node says how long it takes on this machine.",
        ),
        seed_input("Another seed learns again and comes out slightly different."),
    ]


def _overrides() -> list[io.Input]:
    return [
        whole("steps", STEPS, "0: from the budget. More steps learn more, and take longer."),
        rate_input(
            LEARNING_RATE,
            "0: the method's own. Higher learns faster; too high ends in noise, and is then stopped with a message. Of "
            "several stages it is the first one's; the others keep their ratio.",
        ),
        whole(
            "batch_size",
            BATCH_SIZE,
            "0: the method's own. More pictures per step learn more steadily and need more memory and time.",
        ),
        io.Boolean.Input(
            "attractor",
            optional=True,
            default=False,
            tooltip="Gives every picture a word of its own that takes what is not the subject, such as its background, "
            "and is thrown away afterwards; where a picture has a mask, all that is outside of it is asked of this "
            "word alone. Without effect on styles: there the surroundings are what is learned.",
            advanced=True,
        ),
        io.Boolean.Input(
            "soft_masks",
            optional=True,
            default=False,
            tooltip="Pictures without a mask get a soft one, from where the model looks for the class word, so that "
            "their surroundings are learned less. They are shown on the node before the first step: red is left out. "
            "What stands close beside the subject is not left out. Without effect on styles.",
            advanced=True,
        ),
    ]


def _of_the_method() -> list[io.Input]:
    return [
        _term(
            "prior_preservation", "layerwise (DPP): image tokens leave pictures of the class as the model makes them."
        ),
        _term(
            "self_regularisation", "layerwise (CASR): image tokens stay near the mean of what the pictures look like."
        ),
        _term(
            "attention_regulariser", "staged, not for styles: the word takes as much attention as its class word does."
        ),
        io.String.Input(
            "settings",
            optional=True,
            default="",
            placeholder="rank=16, warmup=0.1",
            tooltip="The method's own settings, for those who know its paper: rank=16, stages=1|3 (staged), bank=8 "
            "(nested), dpp=0.02 (layerwise), sites=output.0.*|output.1.*. A wrong name lists them all. Empty: as the "
            "method has them.",
            advanced=True,
        ),
    ]


def _term(name: str, tooltip: str) -> io.Input:
    """A term of some method's loss, which other methods do not have."""
    return io.Boolean.Input(
        name, optional=True, default=True, tooltip=f"{tooltip} Other methods do not have it.", advanced=True
    )


def seed_input(tooltip: str) -> io.Input:
    return io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=False, tooltip=tooltip)


def rate_input(limits: Range, tooltip: str) -> io.Input:
    default, least, most, step = limits
    return io.Float.Input(
        "learning_rate",
        optional=True,
        default=default,
        min=least,
        max=most,
        step=step,
        tooltip=tooltip,
        advanced=True,
    )


def whole(name: str, limits: Range, tooltip: str) -> io.Input:
    default, least, most, step = map(int, limits)
    return io.Int.Input(
        name, optional=True, default=default, min=least, max=most, step=step, tooltip=tooltip, advanced=True
    )
