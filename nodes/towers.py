"""Train Towers and Style/Semantic Tower Encoder: style from a history of pictures, meaning from a reference."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_patcher
import comfy.sd
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io, ui
from torch import Tensor

from ..personalization.comfyui.canvas import Canvas
from ..personalization.composition import PlacedConcept
from ..personalization.concept import word_of
from ..personalization.towers.recipe import TOKENS
from . import folders, networks
from .sockets import CATEGORY, SPEAKS, Concept

NODE = "Train Towers"


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
                *networks.canvas_inputs("the towers look"),
                networks.folder_input(
                    "Its sub-folders are users or styles: all pictures of a sub-folder are made in the same way, and "
                    "show different things. More sub-folders make the towers know more styles. A .txt beside a picture "
                    "is its caption."
                ),
                *networks.training_inputs(
                    "towers",
                    TOKENS,
                    "How many tokens an instruction has. More say more about a picture, and take more of its look.",
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
        from ..personalization.comfyui.network_course import NetworkWish
        from ..personalization.comfyui.towers import TowersCourse
        from ..personalization.comfyui.vision import Vision
        from ..personalization.towers.triplets import users_of

        users = users_of(networks.named_folder(folder, "whose sub-folders hold pictures of one style each"))
        wish = NetworkWish(seed, steps, tokens, batch_size, learning_rate)
        course = TowersCourse(Canvas(model, clip, vae), Vision(clip_vision), users, wish)
        return networks.taught(cls.hidden.unique_id, course, name, folders.TOWERS)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **inputs: object) -> list[tuple[object, ...]]:
        return networks.state_of_folder(cls.hidden.unique_id, folder, ("*/*",))


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
                networks.file_input("towers", folders.TOWERS, NODE),
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
        from ..personalization.towers.file import TOWERS
        from ..personalization.towers.instruct import words_of

        pictures = Pictures(networks.frames(history), networks.frames(reference)[0])
        words = words_of(word_of(placeholder[0]), class_word[0].strip() or "picture")
        file = TOWERS.load(networks.file_of(towers[0], folders.TOWERS, NODE))
        making = make_concepts(model[0], Vision(clip_vision[0]), file, pictures, words)
        bars, lines = chart(pictures.history, making.weights), told(making.weights)
        shown = {"text": ("\n".join(lines),), **ui.PreviewImage(bars).as_dict()}
        return io.NodeOutput(*(PlacedConcept(one) for one in making.concepts), bars, ui=shown)

    @classmethod
    def validate_inputs(cls, towers: Sequence[str | None]) -> bool | str:
        return networks.is_there(towers[0], folders.TOWERS, NODE)

    @classmethod
    def fingerprint_inputs(cls, towers: Sequence[str | None], **inputs: object) -> tuple[int, int]:
        return networks.state_of_file(towers[0], folders.TOWERS, NODE)
