"""Import Concept and Export Concept: files of others, which do not say what Load Concept's own files say."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..personalization.composition import PlacedConcept, as_recommended
from ..personalization.concept import ROLES, word_of
from ..personalization.exchange.exported import EMBEDDING, FORMATS, exported
from ..personalization.exchange.imported import Told, imported
from ..personalization.library import file_name, free_path
from . import folders
from .files import inside, spoken
from .sockets import CATEGORY, SPEAKS
from .sockets import Concept as ConceptSocket


class ImportConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_ImportConcept",
            display_name="Import Concept",
            category=CATEGORY,
            description="A textual-inversion embedding or a LoRA as a concept: with a word of its own, a role, a "
            "strength and a region, beside other concepts. Says what of the file acts. Save Concept keeps it.",
            search_aliases=["import lora", "import embedding", "textual inversion", "lora to concept", "regional lora"],
            **SPEAKS,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.foreign_files(),
                    tooltip="Files in models/embeddings and models/loras. Press R to refresh the list.",
                ),
                io.String.Input(
                    "placeholder",
                    default="",
                    placeholder="the file's name",
                    tooltip="The word for prompts: mug is written as <mug>. Empty: the file's name.",
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    placeholder="mug",
                    tooltip="What it is, in a word or two: mug, stuffed toy. It stands in the prompt at strength 0, "
                    "and for a LoRA always; a style may leave it empty.",
                ),
                io.Combo.Input(
                    "role",
                    options=list(ROLES),
                    default="subject",
                    tooltip="subject: a thing. style: how pictures are made. both: can be used as either.",
                ),
                io.String.Input(
                    "trigger",
                    optional=True,
                    default="",
                    tooltip="Words that a LoRA was trained with; they are written before its class word. An embedding "
                    "needs none.",
                    advanced=True,
                ),
            ],
            outputs=[ConceptSocket.Output("concept", tooltip="For Compose Concepts, Place Concept or Save Concept.")],
        )

    @classmethod
    def execute(cls, file: str, placeholder: str, class_word: str, role: str, trigger: str = "") -> io.NodeOutput:
        path = _found(file)
        word = word_of(placeholder) if placeholder.strip() else file_name(path.stem)
        concept, sentence = imported(path, Told(word, class_word, role, trigger))
        return io.NodeOutput(as_recommended(concept), ui={"text": (f"<{word}>: {sentence}",)})

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **inputs: object) -> tuple[int, int]:
        if file is None:  # it comes from another node, whose changes the host sees
            return 0, 0
        state = _found(file).stat()
        return state.st_mtime_ns, state.st_size


class ExportConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_ExportConcept",
            display_name="Export Concept",
            category=CATEGORY,
            description="Writes a concept for those who do not have Concept Loom: an embedding or a LoRA, where it is "
            "one. What the format cannot hold is refused, with the reason. Save Concept writes it whole.",
            search_aliases=["export lora", "export embedding", "concept to lora", "convert concept", "kohya"],
            is_output_node=True,
            inputs=[
                ConceptSocket.Input("concept", tooltip="From Learn Concept, Load Concept or Place Concept."),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default=EMBEDDING,
                    tooltip="embedding: the word of a concept without other parts than low-rank layers. LoRA: its "
                    "low-rank layers, as the method staged learns them; kohya keys for most programs, diffusers keys "
                    "for diffusers.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    placeholder="brand/red mug",
                    tooltip="The file's name, with folders if you like; empty: its placeholder. A name that is taken "
                    "gets a number.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, concept: PlacedConcept, format: str, name: str) -> io.NodeOutput:
        kind = "embeddings" if format == EMBEDDING else "loras"
        folder = folders.written_to(kind)
        path = free_path(folder, inside(name.strip() or file_name(concept.word), kind))
        if format == EMBEDDING:  # it is written in prompts, where a name ends at a space
            path = free_path(path.parent, file_name(path.stem))
        made = exported(spoken(concept), format, file_name(path.stem))
        made.save(path)
        told = f"Saved as output/{kind}/{path.relative_to(folder).as_posix()}. {made.sentence}"
        return io.NodeOutput(ui={"text": (told,)})


def _found(file: str) -> Path:
    kind, _, name = file.replace("\\", "/").partition("/")
    path = folders.path_of(name, kind) if kind in folders.FOREIGN else None
    if path is None:
        raise ValueError(
            f"The file '{file}' is not in models/embeddings or models/loras. A file from there is needed. "
            "Copy it there and press R, or choose another."
        )
    return path
