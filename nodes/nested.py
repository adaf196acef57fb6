"""Train Nested Encoder and Nested Attention Injector: a subject from a picture, without learning it."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_patcher
import comfy.sd
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import io
from torch import Tensor

from ..personalization.comfyui.canvas import Canvas
from ..personalization.composition import PlacedConcept
from ..personalization.concept import word_of
from ..personalization.nested_encoder.recipe import TOKENS
from . import folders, networks
from .compose import composed, focus_input, strength_input
from .sockets import CATEGORY, SPEAKS, Concept
from .wiring import watch_prompt

NODE = "Train Nested Encoder"


class TrainNestedEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_TrainNestedEncoder",
            display_name=NODE,
            category=CATEGORY,
            description="Learns once, from pictures of many subjects of a kind, to give a word the values that draw "
            "the one in a picture. The file in output/concept_encoders then makes a concept of a picture in a moment.",
            search_aliases=["nested attention", "train ip adapter", "face encoder", "domain encoder", "q-former"],
            **SPEAKS,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *networks.canvas_inputs("the encoder looks"),
                networks.folder_input(
                    "Pictures of a kind of subjects, such as mugs: a sub-folder for each subject, or a picture each "
                    "side by side. Two pictures of a subject teach more than one, hundreds of subjects more than "
                    "dozens. A .txt beside a picture is its caption; class_word.txt in a sub-folder is its class word."
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    placeholder="mug",
                    tooltip="What the pictures show, in a word or two. The model's idea of it is what an encoder "
                    "starts from.",
                ),
                *networks.training_inputs(
                    "encoder",
                    TOKENS,
                    "Into how many tokens a picture is read. More can hold more of it, and take more memory.",
                ),
            ],
            outputs=[
                io.Combo.Output("encoder", tooltip="The file, for Nested Attention Injector."),
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
        class_word: str,
        name: str,
        seed: int,
        steps: int = 0,
        tokens: int = 0,
        batch_size: int = 0,
        learning_rate: float = 0.0,
    ) -> io.NodeOutput:
        from ..personalization.comfyui.nested_encoder import EncoderCourse
        from ..personalization.comfyui.network_course import NetworkWish
        from ..personalization.comfyui.vision import Vision
        from ..personalization.nested_encoder.subjects import subjects_of

        word = class_word.strip()
        subjects = subjects_of(networks.named_folder(folder, "with pictures of many subjects of a kind"), word)
        wish = NetworkWish(seed, steps, tokens, batch_size, learning_rate)
        course = EncoderCourse(Canvas(model, clip, vae), Vision(clip_vision), subjects, wish, word)
        return networks.taught(cls.hidden.unique_id, course, name, folders.ENCODERS)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **inputs: object) -> list[tuple[object, ...]]:
        return networks.state_of_folder(cls.hidden.unique_id, folder, ("*", "*/*"))


class NestedAttentionInjector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_NestedAttentionInjector",
            display_name="Nested Attention Injector",
            category=CATEGORY,
            description="Reads the subject of a picture with a trained encoder, without learning it, and weaves it "
            "into MODEL and CLIP: one word of the prompt gets values that depend on the place in the picture. After "
            "sampling the node says where it acted, or why it did not.",
            search_aliases=["nested attention", "ip adapter", "instant id", "photomaker", "image prompt", "face"],
            is_input_list=True,
            not_idempotent=True,  # as in Compose Concepts
            **SPEAKS,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model to draw with, of the family that the encoder is for."),
                io.Clip.Input("clip", tooltip="Its CLIP; every prompt with the word must come from our output."),
                networks.file_input("encoder", folders.ENCODERS, NODE),
                io.ClipVision.Input("clip_vision", tooltip="The one that the encoder was trained with."),
                io.Image.Input(
                    "images",
                    tooltip="One subject, in one picture or several, as a batch or a list of any sizes. Of a picture "
                    "that is not square the middle is read: crop close around the subject.",
                ),
                io.String.Input(
                    "placeholder",
                    default="it",
                    tooltip="The word for prompts: it is written as <it>. A name of its own lets several stand in one "
                    "prompt.",
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    placeholder="as the encoder was trained",
                    tooltip="What it is. The word reads as this at strength 0. Empty: what the encoder was trained on.",
                ),
                strength_input("0: its class word alone. 1: as trained. Higher insists on the picture."),
                focus_input(
                    "The paper's lambda: attention logits of the word times this. 1: as the prompt has it. "
                    "Higher gathers the subject where the picture already looks for it, lower leaves more to the rest "
                    "of the prompt.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="For the sampler."),
                io.Clip.Output("clip", tooltip="For the prompts."),
                Concept.Output("concept", tooltip="The same as a concept, for Save Concept or Compose Concepts."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Sequence[comfy.model_patcher.ModelPatcher],
        clip: Sequence[comfy.sd.CLIP],
        encoder: Sequence[str],
        clip_vision: Sequence[ClipVisionModel],
        images: Sequence[Tensor],
        placeholder: Sequence[str],
        class_word: Sequence[str],
        strength: Sequence[float],
        focus: Sequence[float] = (1.0,),
    ) -> io.NodeOutput:
        from ..personalization.comfyui.nested_encoder import encoded_concept
        from ..personalization.comfyui.vision import Vision
        from ..personalization.nested_encoder.file import ENCODERS

        file = ENCODERS.load(networks.file_of(encoder[0], folders.ENCODERS, NODE))
        words = word_of(placeholder[0]), class_word[0].strip()
        pictures = networks.frames(images)
        concept = encoded_concept(model[0], clip[0], Vision(clip_vision[0]), file, pictures, words)
        placed = PlacedConcept(concept, strength[0], focus=focus[0])
        woven = composed((placed,), model[0], clip[0], cls.hidden.unique_id)
        return io.NodeOutput(woven.model, woven.clip, placed, ui={"text": woven.notes})

    @classmethod
    def validate_inputs(cls, encoder: Sequence[str | None]) -> bool | str:
        return networks.is_there(encoder[0], folders.ENCODERS, NODE)

    @classmethod
    def fingerprint_inputs(cls, encoder: Sequence[str | None], **inputs: object) -> tuple[int, int]:
        """Of the file; called once in every prompt, also where the result is kept from an earlier one."""
        watch_prompt()
        return networks.state_of_file(encoder[0], folders.ENCODERS, NODE)
