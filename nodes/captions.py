"""Caption Pictures: what is around the thing in pictures that have no caption, as the model itself knows it."""

from __future__ import annotations

import logging
import math

import comfy.model_patcher
import comfy.sd
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui
from torch import Tensor

from ..personalization.comfyui.canvas import Canvas
from ..personalization.comfyui.captions import captioned
from ..personalization.concept import ROLES
from ..personalization.dataset import ConceptDataset
from ..personalization.grid import Cell, Row, grid
from .sockets import CATEGORY, SPEAKS, Dataset

log = logging.getLogger("concept_loom")

CORRECTING = (
    "Read them before learning. Where one is wrong, write the right one on Concept Dataset: captions that are there "
    "stay."
)


class CaptionPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_CaptionPictures",
            display_name="Caption Pictures",
            category=CATEGORY,
            description="Writes a caption for each picture that has none: where the thing is and what is beside it, so "
            "that Learn Concept need not learn these. The model that will learn chooses, among phrases, those under "
            "which it knows the picture best; nothing is downloaded.",
            search_aliases=["caption", "auto caption", "captioning", "tagger", "interrogate", "describe images"],
            **SPEAKS,
            inputs=[
                io.Model.Input("model", tooltip="The model that the concept will be learned on. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
                Dataset.Input("dataset", tooltip="The pictures, from Concept Dataset. Captions that are there stay."),
                io.String.Input(
                    "class_word",
                    default="",
                    placeholder="mug",
                    tooltip="What the pictures show, as on Learn Concept: mug, stuffed toy; the model is asked what is "
                    "around that. For a style its kind (watercolor). Empty: it finds somewhat less.",
                ),
                io.Combo.Input(
                    "role",
                    options=list(ROLES),
                    default="subject",
                    tooltip="As on Learn Concept. subject, both: what is around the thing. style: what is in the "
                    "picture, which is all that is not its style.",
                ),
                io.String.Input(
                    "phrases",
                    optional=True,
                    multiline=True,
                    default="",
                    placeholder="on a table | on grass | in the snow\nheld in a hand | next to a plant",
                    tooltip="What captions may say: one line for each kind of thing, its phrases apart by |, of which "
                    "a caption says one at most. Name what your pictures show; more phrases take longer. Empty: a list "
                    "of common ones.",
                ),
            ],
            outputs=[
                Dataset.Output("dataset", tooltip="The same pictures with captions, for Learn Concept."),
                io.String.Output(
                    "captions",
                    tooltip="A line per picture, behind its name: to be corrected, and pasted into Concept Dataset.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        dataset: ConceptDataset,
        class_word: str,
        role: str,
        phrases: str = "",
    ) -> io.NodeOutput:
        bar = ProgressBar(1)
        made = captioned(Canvas(model, clip, vae), dataset, class_word, role, phrases, bar.update_absolute)
        captions, happened = "\n".join(made.captions()), _happened(dataset)
        text = "\n".join((happened, captions, CORRECTING))
        log.info(text)
        return io.NodeOutput(made, captions, ui={"text": (text,), **ui.PreviewImage(_sheet(made, happened)).as_dict()})


def _happened(dataset: ConceptDataset) -> str:
    bare, pictures = sum(not picture.caption for picture in dataset.pictures), len(dataset.pictures)
    if not bare:
        return f"All {pictures} pictures had captions, and none was added."
    return f"{bare} of {pictures} pictures had no caption; the model chose."


def _sheet(dataset: ConceptDataset, happened: str) -> Tensor:
    """Each picture over its caption, (1, h, w, 3)."""
    pictures = sorted(dataset.pictures, key=lambda picture: picture.name)
    cells = [Cell(one.pixels.float() / 255, (one.caption, one.name)) for one in pictures]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [Row("", "", cells[first : first + columns]) for first in range(0, len(cells), columns)]
    return grid("Captions", [happened], rows)
