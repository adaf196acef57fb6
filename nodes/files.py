"""Save Concept and Load Concept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from comfy_api.latest import io

from ..personalization.checkpoint import load, save
from ..personalization.composition import PlacedConcept, as_recommended, used_at
from ..personalization.concept import Concept, word_of
from ..personalization.library import file_name, free_path, hash_of, same_tensors
from ..personalization.remembered import Remembered, recalled
from . import folders
from .sockets import CATEGORY, SPEAKS
from .sockets import Concept as ConceptSocket


class SaveConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_SaveConcept",
            display_name="Save Concept",
            category=CATEGORY,
            description="Writes a concept under a name of your choice into output/concepts, with what others should "
            "know about it. Learn Concept has saved it already; this is for naming, signing and sharing.",
            search_aliases=["export concept", "write safetensors", "share concept"],
            is_output_node=True,
            inputs=[
                ConceptSocket.Input("concept", tooltip="From Learn Concept, Load Concept or Place Concept."),
                io.String.Input(
                    "name",
                    default="",
                    placeholder="brand/red mug",
                    tooltip="The file's name, with folders if you like; empty: its placeholder. A name that is taken "
                    "gets a number.",
                ),
                io.String.Input(
                    "note",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="Shown wherever the file is looked at.",
                    advanced=True,
                ),
                io.String.Input(
                    "author", optional=True, default="", tooltip="Who made it; stands in the file.", advanced=True
                ),
                io.String.Input(
                    "license",
                    optional=True,
                    default="",
                    tooltip="What others may do with it; stands in the file.",
                    advanced=True,
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls, concept: PlacedConcept, name: str, note: str = "", author: str = "", license: str = ""
    ) -> io.NodeOutput:
        named = _named(concept, note, author, license)
        path = free_path(folders.written_to(), inside(name.strip() or file_name(concept.word)))
        save(named, path)
        return io.NodeOutput(ui={"text": (f"Saved as concepts/{path.relative_to(folders.written_to()).as_posix()}.",)})


class LoadConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_LoadConcept",
            display_name="Load Concept",
            category=CATEGORY,
            description="A concept that was learned before, here or elsewhere.",
            search_aliases=["open concept", "concept file", "embedding", "import concept"],
            **SPEAKS,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.known_files(),
                    tooltip="Files in models/concepts and output/concepts. Press R to refresh the list.",
                ),
                io.String.Input(
                    "placeholder",
                    optional=True,
                    default="",
                    placeholder="its own",
                    tooltip="Another word for it in this workflow: cup is written as <cup>. Empty: its own word.",
                ),
                io.String.Input(
                    "remembered",
                    optional=True,
                    default="",
                    socketless=True,
                    tooltip="What the page notes of the chosen file, so that it is found under another name, and asked "
                    "for where it is missing. Prompts of your own may leave it out.",
                    advanced=True,
                ),
            ],
            outputs=[ConceptSocket.Output("concept", tooltip="For Compose Concepts.")],
        )

    @classmethod
    def execute(cls, file: str, placeholder: str = "", remembered: str = "") -> io.NodeOutput:
        here = found(file, remembered)
        concept = load(here.path)
        word = word_of(placeholder) if placeholder.strip() else here.word
        placed = as_recommended(concept, "" if word == concept.info.placeholder else word)
        return io.NodeOutput(placed, ui={"text": ("\n".join(filter(None, (_described(placed), here.note))),)})

    # Naming `file` here takes the place of ComfyUI's own "value not in list". A sentence that is returned, ComfyUI says
    # once for each input named here; one that is raised, once.
    @classmethod
    def validate_inputs(cls, file: str | None, remembered: str | None = "") -> bool:
        comes_from_another_node = file is None  # execute will judge it
        return comes_from_another_node or bool(found(file, remembered or ""))

    @classmethod
    def fingerprint_inputs(cls, file: str | None, remembered: str | None = "", **inputs: object) -> tuple[int, int]:
        if file is None:  # it comes from another node, whose changes the host sees
            return 0, 0
        state = found(file, remembered or "").path.stat()
        return state.st_mtime_ns, state.st_size


class Found(NamedTuple):
    """`word` is the one that the workflow keeps, empty where it keeps none; `note` what people should know."""

    path: Path
    word: str = ""
    note: str = ""


def found(file: str, remembered: str) -> Found:
    """By name where the content is the remembered one or none is; else by content; else by name, and said.

    ValueError with a sentence that asks for it where it is nowhere.
    """
    named, kept = folders.path_of(file) if file else None, recalled(remembered)
    if kept is None or not kept.names(file):  # a script or a wire has put another file in
        return Found(named or _missing(file, None))
    if named and hash_of(named) == kept.hash:
        return Found(named, kept.word)
    alike = same_tensors(kept.hash, folders.all_folders())
    if alike:
        return Found(alike, kept.word, f"Found as {folders.name_of(alike)}; the workflow calls it {file}.")
    return Found(named or _missing(file, kept), "", f"{file} is not the file of this workflow, {kept.described()}.")


def _missing(file: str, kept: Remembered | None) -> NoReturn:
    wanted = f": {kept.described()}" if kept else ""
    raise ValueError(
        f"The concept file '{file}' is not in models/concepts or output/concepts{wanted}. A file from there is "
        f"needed{', under any name' if kept else ''}. Copy it to models/concepts and press R, or choose another."
    )


def _described(placed: PlacedConcept) -> str:
    info = placed.concept.info
    by = f"learned by {info.method} in {info.steps} steps" if info.steps else f"from {info.method}"
    learned = f"{by} on {info.base.name or info.base.family}"
    told = (f"<{placed.word}>: {info.class_word}, {info.role}, {learned}.", used_at(placed.concept), info.note)
    return "\n".join(filter(None, told))


def _named(placed: PlacedConcept, note: str, author: str, license: str) -> Concept:
    """Empty fields keep what the file said before."""
    told = {"note": note.strip(), "author": author.strip(), "license": license.strip()}
    concept = spoken(placed)
    return replace(concept, info=replace(concept.info, **{key: value for key, value in told.items() if value}))


def spoken(placed: PlacedConcept) -> Concept:
    """The concept with the word of this workflow as its own."""
    info = placed.concept.info
    return replace(placed.concept, info=replace(info, placeholder=placed.placeholder or info.placeholder))


def inside(name: str, kind: str = folders.CONCEPTS) -> str:
    """A name relative to the folder of `kind` in output/ that cannot lead out of it."""
    path = PurePosixPath(name.replace("\\", "/").removesuffix(folders.SUFFIX))
    if path.is_absolute() or ".." in path.parts or any(char in '<>:"|?*\0' for char in name):
        raise ValueError(
            f"The name '{name}' cannot be used; it must stay inside output/{kind} and work on every system. "
            "Use letters, digits, spaces and / for folders."
        )
    return str(path)
