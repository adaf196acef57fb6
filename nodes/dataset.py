"""Concept Dataset: pictures in, what is wrong with them out, before anything is learned."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io, ui
from torch import Tensor

from ..personalization.contact_sheet import contact_sheet
from ..personalization.dataset import AUTO, ConceptDataset, dataset_of
from ..personalization.doctor import examine, health
from .pictures import Wired, captioned, folder_of, given, listed_files
from .sockets import CATEGORY, SPEAKS
from .sockets import Dataset as DatasetSocket

HOLDOUTS = [AUTO, "0", "1", "2", "3", "4", "5"]
PICTURES_WIDGET = "CONCEPT_LOOM_PICTURES"  # web/pictures.js


class ConceptDatasetNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_ConceptDataset",
            display_name="Concept Dataset",
            category=CATEGORY,
            description="3 to 20 pictures of one thing or one style. Says what is wrong with them before learning.",
            search_aliases=["training images", "training data", "reference images", "load folder", "dreambooth images"],
            is_input_list=True,
            **SPEAKS,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    placeholder="a folder inside input/, or a full path",
                    tooltip="Every picture in it is used: a folder inside ComfyUI's input folder, a full path, or "
                    "'example' for the pack's own five pictures. A .txt beside a picture is its caption, transparency "
                    "its mask.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="More pictures, as one batch or as a list of any sizes. More of them, from other sides and "
                    "in other places, make the concept less tied to one pose and background.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="One mask per connected image, white on the subject: the less is white, the less of the "
                    "background is learned. An empty mask counts as none. Load Image's MASK is right when the subject "
                    "was painted in the mask editor; of a cut-out picture it is white around the subject: put Invert "
                    "Mask after it.",
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    multiline=True,
                    default="",
                    placeholder="captions, a line per picture: a photo of {} on a table, next to a book",
                    tooltip="One line per picture: the folder's by name, those dropped here, then connected images; or "
                    "each behind its picture's name, as Caption Pictures gives them. Say where the thing is and what "
                    "is beside it, not what it looks like: what a caption names is not learned as part of the concept. "
                    "'a photo of {} on the beach, next to a ball': {} or the class word is where the concept stands. "
                    "Empty: 'a photo of <mug>' and the like.",
                ),
                io.Combo.Input(
                    "holdout",
                    optional=True,
                    options=HOLDOUTS,
                    default=AUTO,
                    tooltip="Pictures that are never learned from, to tell learning from copying. More of them judge "
                    "better and leave less to learn from. auto: two from 8 pictures on.",
                    advanced=True,
                ),
                io.String.Input(
                    "pictures",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="Pictures that were dropped here: drop more, or choose several at once. They are copied "
                    "into ComfyUI's input folder. For the API: one subfolder/name in input/ per line.",
                    extra_dict={"widgetType": PICTURES_WIDGET},
                ),
            ],
            outputs=[
                DatasetSocket.Output("dataset", tooltip="For Learn Concept; Caption Pictures may stand between."),
                io.String.Output("report", tooltip="What was read and held out, and what to improve."),
                io.Image.Output(
                    "preview",
                    tooltip="What will be learned from, on one sheet: each picture as it is cropped, red "
                    "where its mask leaves out, the held-out ones last and framed in blue.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        folder: list[str],
        images: Sequence[Tensor] = (),
        masks: Sequence[Tensor] = (),
        captions: Sequence[str] = ("",),
        holdout: Sequence[str] = (AUTO,),
        pictures: Sequence[str] = ("",),
    ) -> io.NodeOutput:
        found = given(folder[0], pictures[0], Wired(images, masks))
        dataset = dataset_of(captioned(found, lines_of(captions)), holdout[0], found.unread)
        report, sheet = "\n".join(_report(dataset)), contact_sheet(dataset)
        shown = {"text": (report,), **ui.PreviewImage(sheet).as_dict()}
        return io.NodeOutput(dataset, report, sheet, ui=shown)

    @classmethod
    def fingerprint_inputs(
        cls, folder: Sequence[str | None], pictures: Sequence[str | None] = ("",), **inputs: object
    ) -> list[tuple[str, int, int]]:
        """Changed when a file was added, removed or written."""
        where = folder_of(folder[0] or "")  # None: it comes from another node, whose changes the host sees
        inside = sorted(where.iterdir()) if where and where.is_dir() else ()
        listed = listed_files(pictures[0] or "")
        files = (*inside, *listed, *(file.with_suffix(".txt") for file in listed))
        return [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]


def lines_of(captions: Sequence[str]) -> list[str]:
    """The widget's lines; where a list is connected, one entry per picture."""
    return captions[0].splitlines() if len(captions) == 1 else [" ".join(one.split()) for one in captions]


def _report(dataset: ConceptDataset) -> tuple[str, ...]:
    findings = examine(dataset)  # what depends on the size of training, Learn Concept tells
    return (health(dataset, findings).sentence, *dataset.report(), *(finding.sentence for finding in findings))
