"""Train Towers and Style/Semantic Tower Encoder: style from a history of pictures, meaning from a reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_patcher
import comfy.sd
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io, ui
from torch import Tensor

from ..personalization.comfyui.canvas import Canvas
from ..personalization.composition import PlacedConcept
from ..personalization.concept import word_of
from ..personalization.library import file_name
from ..personalization.pictures import PictureError
from ..personalization.towers.recipe import BATCH_SIZE, LEARNING_RATE, STEPS, TOKENS
from . import folders
from .learn import LARGEST_SEED, whole
from .pictures import folder_of
from .progress import LearningProgress
from .sockets import CATEGORY, SPEAKS, Concept

# What they run is imported where it runs: ComfyUI's start need not wait for it.
if TYPE_CHECKING:
    from ..personalization.comfyui.towers import TowersLesson

log = logging.getLogger("concept_loom")

_cancelled: Counter[str] = Counter()  # by node id, as in Learn Concept


class TrainTowers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_TrainTowers",
            display_name="Train Towers",
            category=CATEGORY,
            description="Learns once, from many pictures, to tell how a picture is made from what it shows. The file "
            "in output/concept_towers then reads any style and any meaning without further learning.",
            search_aliases=["drc", "style encoder", "disentangle style content", "train style adapter", "history"],
            **SPEAKS,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to train for. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                io.ClipVision.Input(
                    "clip_vision", tooltip="What the towers look through. They will need the same one later."
                ),
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="a folder inside input/, or a full path",
                    tooltip="Its sub-folders are users or styles: all pictures of a sub-folder are made in the same "
                    "way, and show different things. More sub-folders make the towers know more styles. A .txt beside "
                    "a picture is its caption.",
                ),
                io.String.Input(
                    "name", default="towers", tooltip="The file's name. A name that is taken gets a number."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=LARGEST_SEED,
                    control_after_generate=False,
                    tooltip="Another seed trains again and comes out slightly different.",
                ),
                whole("steps", STEPS, "0: as many as the model's family usually takes. More learn more, take longer."),
                whole(
                    "tokens",
                    TOKENS,
                    "How many tokens an instruction has. More say more about a picture, and take more of its look.",
                ),
                whole("batch_size", BATCH_SIZE, "0: the family's own. More learn more steadily and need more memory."),
                io.Float.Input(
                    "learning_rate",
                    optional=True,
                    default=LEARNING_RATE.default,
                    min=LEARNING_RATE.least,
                    max=LEARNING_RATE.most,
                    step=LEARNING_RATE.step,
                    tooltip="0: the family's own. Higher learns faster; too high ends in noise.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Combo.Output("towers", tooltip="The file, for Style/Semantic Tower Encoder."),
                io.LossMap.Output("loss_map", tooltip="The training loss per step, for Plot Loss Graph."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        clip_vision: ClipVisionModel,
        folder: str,
        name: str,
        seed: int,
        steps: int = 0,
        tokens: int = 0,
        batch_size: int = 0,
        learning_rate: float = 0.0,
    ) -> io.NodeOutput:
        from ..personalization.comfyui.towers import TowersCourse, TowersWish, teach_towers
        from ..personalization.comfyui.vision import Vision
        from ..personalization.towers.triplets import users_of

        users = users_of(_named_folder(folder))
        wish = TowersWish(seed, steps, tokens, batch_size, learning_rate)
        course = TowersCourse(Canvas(model, clip, vae), Vision(clip_vision), users, wish)
        progress, where = LearningProgress(), folders.all_folders(folders.TOWERS)
        lesson = teach_towers(course, file_name(name), where, lambda step: progress(step, lambda concept: None))
        if not lesson.finished:
            _cancelled[cls.hidden.unique_id] += 1
        return _trained(lesson)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **inputs: object) -> list[tuple[object, ...]]:
        """Changed when a file was added, removed or written, and after a cancel."""
        where = folder_of(folder or "")  # None: it comes from another node, whose changes the host sees
        files = sorted(where.glob("*/*")) if where and where.is_dir() else ()
        stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
        return [(_cancelled[cls.hidden.unique_id],), *stamps]


def _named_folder(folder: str) -> Path:
    where = folder_of(folder)
    if where is None:
        raise PictureError(
            "No folder was named; one is needed whose sub-folders hold pictures of one style each. "
            "Name a folder inside input/, or give a full path."
        )
    return where


def _trained(lesson: TowersLesson) -> io.NodeOutput:
    file = folders.name_of(lesson.path, folders.TOWERS)
    text = "\n".join((*lesson.sentences, f"The file is {folders.TOWERS}/{file}."))
    log.info(text)
    return io.NodeOutput(file, {"loss": list(lesson.losses)}, ui={"text": (text,)})


class TowerEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_TowerEncoder",
            display_name="Style/Semantic Tower Encoder",
            category=CATEGORY,
            description="Reads a style from a history of pictures and a meaning from a reference, without learning. "
            "Gives three concepts for Compose Concepts: the style, the meaning, and both in one.",
            search_aliases=["drc", "style transfer", "image prompt", "ip adapter", "style reference", "personalize"],
            is_input_list=True,
            **SPEAKS,
            inputs=[
                io.Model.Input("model", tooltip="The model to draw with, of the family that the towers were made for."),
                io.ClipVision.Input("clip_vision", tooltip="The one that the towers were trained with."),
                io.Combo.Input(
                    "towers",
                    options=folders.known_files(folders.TOWERS),
                    tooltip="Files of Train Towers in models/concept_towers and output/concept_towers. Press R to "
                    "refresh the list, or connect Train Towers.",
                ),
                io.Image.Input(
                    "history",
                    tooltip="Pictures made in the wanted style, as one batch or as a list of any sizes. More of them "
                    "say better what they have in common.",
                ),
                io.Image.Input("reference", tooltip="The picture whose content is wanted; its own style is left out."),
                io.String.Input(
                    "placeholder",
                    default="mine",
                    tooltip="The word for prompts: mine gives <mine_style>, <mine_content> and <mine> for both.",
                ),
                io.String.Input(
                    "class_word",
                    default="picture",
                    tooltip="What the reference shows, in a word or two: <mine_content> and <mine> read as this word "
                    "at strength 0. Say mug for a mug.",
                ),
            ],
            outputs=[
                Concept.Output("style", tooltip="How the history is made; <mine_style> in a prompt."),
                Concept.Output("semantics", tooltip="What the reference shows; <mine_content> in a prompt."),
                Concept.Output("both", tooltip="The reference's content in the history's style; <mine> in a prompt."),
                io.Image.Output("weights", tooltip="A bar per history picture: its share of the style."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Sequence[comfy.model_patcher.ModelPatcher],
        clip_vision: Sequence[ClipVisionModel],
        towers: Sequence[str],
        history: Sequence[Tensor],
        reference: Sequence[Tensor],
        placeholder: Sequence[str] = ("mine",),
        class_word: Sequence[str] = ("picture",),
    ) -> io.NodeOutput:
        from ..personalization.comfyui.towers import Pictures, make_concepts
        from ..personalization.comfyui.vision import Vision
        from ..personalization.towers.chart import chart, told
        from ..personalization.towers.file import load
        from ..personalization.towers.instruct import words_of

        pictures = Pictures(_frames(history), _frames(reference)[0])
        words = words_of(word_of(placeholder[0]), class_word[0].strip() or "picture")
        file = load(_file(towers[0]))
        making = make_concepts(model[0], Vision(clip_vision[0]), file, pictures, words)
        bars, lines = chart(pictures.history, making.weights), told(making.weights)
        shown = {"text": ("\n".join(lines),), **ui.PreviewImage(bars).as_dict()}
        return io.NodeOutput(*(PlacedConcept(one) for one in making.concepts), bars, ui=shown)

    # Naming `towers` here takes the place of ComfyUI's own "value not in list".
    @classmethod
    def validate_inputs(cls, towers: Sequence[str | None]) -> bool | str:
        if towers[0] is None:  # it comes from another node, and execute will judge it
            return True
        try:
            return bool(_file(towers[0]))
        except ValueError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, towers: Sequence[str | None], **inputs: object) -> tuple[int, int]:
        if towers[0] is None:
            return 0, 0
        state = _file(towers[0]).stat()
        return state.st_mtime_ns, state.st_size


def _frames(batches: Iterable[Tensor]) -> list[Tensor]:
    return [frame[..., :3] for batch in batches for frame in batch]


def _file(name: str) -> Path:
    found = folders.path_of(name, folders.TOWERS) if name else None
    if found is None:
        raise ValueError(
            f"The towers file '{name}' is not in models/concept_towers or output/concept_towers. One is needed. "
            "Copy it there and press R, or make one with Train Towers."
        )
    return found
