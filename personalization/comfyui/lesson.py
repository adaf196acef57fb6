"""The lesson: from what is on the canvas, pictures and a wish to a concept that is on disk, and learned only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import comfy.model_management as host
import torch
from torch import Tensor

from ..checkpoint import save
from ..concept import Base, Concept, word_of
from ..contact_sheet import masks_sheet
from ..dataset import ConceptDataset
from ..doctor import examine
from ..latents import TrainingLatents
from ..learned import Event, Learned, LearningDiverged, Masked, Planned
from ..learner import JUDGES, LearnTask, learn
from ..library import file_name, free_path, learned_before
from ..methods import AUTO, Beginning, task_of
from ..methods.layerwise import refuse_unmatched
from ..recipe import Recipe, sourced
from ..thumbnail import jpeg_of, picture_from
from ..unfinished import Unfinished
from ..whole_file import must_be_writable
from ..wish import Wish, recipe_of
from .canvas import Canvas, latents_of, learning_key, side_for
from .gradient_checkpoint import checkpointed
from .memory import Way, enough_memory, gigabytes, in_memory, room_for
from .painter import Painter
from .peak import counts_peaks, forget_peak, peak_bytes
from .session import Session, training_session

CLASS_PICTURES = ".class_pictures"  # beside the concepts
PREVIEWS = 12
CURVE = 500  # losses kept in the file
_UNMEASURED = "; its settings have been measured on no {} model"

Show = Callable[[Event, Callable[[Concept], Tensor]], None]


class Lesson(NamedTuple):
    """`word` is the placeholder asked for; `picture` (1, h, w, 3) shows the concept; `sentences` say what happened.

    Not `finished`: learning was cancelled, and the same lesson again goes on from there. `masked` (1, h, w, 3) shows
    the pictures under their masks, where some were made for them now. `peak`: the most memory that learning took, in
    bytes, 0 where nothing was learned now.
    """

    concept: Concept
    word: str
    picture: Tensor
    path: Path
    sentences: tuple[str, ...]
    finished: bool = True
    masked: Tensor | None = None
    peak: int = 0


@dataclass(frozen=True)
class _Course:
    """All that one learning needs."""

    canvas: Canvas
    dataset: ConceptDataset
    base: Base
    recipe: Recipe
    wish: Wish
    unfinished: Unfinished


def teach(canvas: Canvas, dataset: ConceptDataset, wish: Wish, folders: Sequence[Path], show: Show) -> Lesson:
    """The concept found in `folders`, or learned now and written to the last of them.

    `show` gets every event and a function that makes a picture (1, h, w, 3) of a concept.
    """
    with torch.inference_mode(False):
        base, wish = canvas.base(), replace(wish, placeholder=word_of(wish.placeholder))
        masked = any(picture.mask is not None for picture in dataset.pictures)
        captioned = all(picture.caption for picture in dataset.pictures)
        recipe = recipe_of(wish, base.family, len(dataset.pictures), masked, captioned)
        if "sites=" in wish.settings:
            refuse_unmatched(base, recipe.sites)
        words = (wish.class_word.strip(), wish.role)
        read = dataset if recipe.captions else dataset.uncaptioned
        key = learning_key(canvas, read, recipe, words, wish.seed)
        found = learned_before(key, folders)
        if found:
            return _remembered(*found, wish, base)
        must_be_writable(folders[-1])
        unfinished = Unfinished(folders[-1], key)
        try:
            made = _learned(_Course(canvas, read, base, recipe, wish, unfinished), show)
        except LearningDiverged as error:
            raise _with_last_good(error, folders[-1], wish.placeholder, recipe.batch_size) from error
        learned = made.learned
        concept = _finished(learned, key, made.picture, recipe.batch_size)
        path = free_path(folders[-1], _file_name(wish.placeholder, learned))
        save(concept, path)
        if learned.finished:
            unfinished.forget()
        unread = *_about_captions(recipe, wish.role, dataset), *_about_patience(recipe, dataset)
        told = (*_happened(learned), _method(recipe.method, wish, base), *unread, made.room, *_findings(dataset, base))
        picture = picture_from(concept.thumbnail)
        return Lesson(concept, wish.placeholder, picture, path, told, learned.finished, made.masked, made.peak)


class _Made(NamedTuple):
    """What was learned, a picture of it, how memory sufficed, the pictures under soft masks, and bytes at the peak."""

    learned: Learned
    picture: Tensor | None
    room: str
    masked: Tensor | None
    peak: int


def _learned(course: _Course, show: Show) -> _Made:
    canvas, recipe = course.canvas, course.recipe
    latents = latents_of(canvas, course.dataset, course.base)
    node, findings = "Learn Concept", _findings(course.dataset, course.base)
    memory = enough_memory(recipe.batch_size, node)
    with memory, training_session(canvas.model, canvas.clip, name=canvas.name) as session:
        painter = Painter(canvas, session, recipe.templates[0], _square(latents, course.base))
        task = _task(course, session, latents)

        def tell(event: Event) -> None:
            if isinstance(event, Planned):
                event = Planned(" ".join((event.sentence, *findings)))
            show(event, painter.on_the_way)

        masked = masks_sheet(course.dataset, task.latents) if recipe.soft_masks else None
        if masked is not None:
            tell(Masked(masked))
        room = room_for(task, session)

        def learned_that(way: Way) -> Learned:
            recipe = replace(task.recipe, batch_size=way.batch_size)
            if room.movable:
                session.weights.wait(room.waiting(way))
            with checkpointed(session.denoiser.network) if way.checkpoint else nullcontext():
                return _from_where_it_was(replace(task, recipe=recipe), course.unfinished, tell)

        forget_peak(session.denoiser.device)
        learned, plan = in_memory(room, recipe.batch_size, node, learned_that, tell)
        peak = peak_bytes(session.denoiser.device)
        sketch = painter.sketched(learned)
    took = f"It took {gigabytes(peak)} at most." if counts_peaks(session.denoiser.device) else ""
    room_told = " ".join(filter(None, (plan, took, painter.spared, _alone(recipe, latents))))
    return _Made(learned, painter.painted(sketch), room_told, masked, peak)


def _alone(recipe: Recipe, latents: TrainingLatents) -> str:
    """A batch holds pictures of one shape, and the attractor's contrast needs two of them."""
    alone = sum(len(numbers) == 1 for numbers in latents.buckets)
    if not (recipe.attractor and recipe.contrast and alone):
        return ""
    return (
        f"{alone} of {len(latents.train)} pictures have a shape of their own: the attractor has no other to tell the "
        "subject by there. Crop them to one shape."
    )


def _square(latents: TrainingLatents, base: Base) -> tuple[int, int, int]:
    """The shape of a preview's latents."""
    side = side_for(base) // 8
    return latents.train[0].shape[0], side, side


def _from_where_it_was(task: LearnTask, unfinished: Unfinished, tell: Callable[[Event], None]) -> Learned:
    unfinished.sweep()
    task = replace(task, snapshot=unfinished.found(task.start, task.recipe), keep=unfinished.keep)
    try:
        return learn(task, tell)
    except LearningDiverged:
        unfinished.forget()  # it would only diverge again
        raise


def _task(course: _Course, session: Session, latents: TrainingLatents) -> LearnTask:
    (denoiser, encoder), recipe, wish = session, course.recipe, course.wish
    words = (wish.placeholder, wish.class_word, wish.role)
    beginning = Beginning(encoder, course.base, recipe, *words, denoiser=denoiser, latents=latents)
    task = task_of(beginning, wish.seed, _class_pictures(course))
    return replace(task, previews=PREVIEWS, interrupts=(host.InterruptProcessingException,))


def _class_pictures(course: _Course) -> Path:
    """The folder that keeps them; a model that other packs have patched draws its own."""
    folder, patches = course.unfinished.path.parent.with_name(CLASS_PICTURES), course.canvas.patches
    return folder / hashlib.sha256(json.dumps(patches).encode()).hexdigest()[:32] if patches else folder


def _file_name(placeholder: str, learned: Learned) -> str:
    return file_name(placeholder) + ("" if learned.finished else f" (stopped at step {learned.best_step})")


def _finished(learned: Learned, key: str, picture: Tensor | None, pictures: int) -> Concept:
    """A concept that was stopped early has no key, so that the same graph learns it whole.

    Its note says so, and that memory was too short for so many `pictures` per step as were asked for.
    """
    losses = learned.losses[:: max(1, -(-len(learned.losses) // CURVE))]
    taken = learned.concept.info.recipe["batch_size"]
    stopped = "" if learned.finished else f"Stopped early: the state of step {learned.best_step} of {learned.steps}."
    fewer = "" if taken == pictures else f"Learned with {taken} instead of {pictures} pictures per step for memory."
    note = " ".join(filter(None, (stopped, fewer)))
    info = replace(learned.concept.info, key=key if learned.finished else "", losses=losses, note=note)
    return replace(learned.concept, info=info, thumbnail=b"" if picture is None else jpeg_of(picture))


def _with_last_good(error: LearningDiverged, folder: Path, placeholder: str, pictures: int) -> LearningDiverged:
    """What was sound is on disk, as after a cancel, and the sentence names the file."""
    good = error.last_good
    if not good.best_step:
        return LearningDiverged(f"{error} Nothing had been learned before it, so nothing was saved.", good)
    path = free_path(folder, _file_name(placeholder, good))
    save(_finished(good, "", None, pictures), path)
    return LearningDiverged(f"{error} The state of step {good.best_step} is saved as {path.name}.", good)


def _happened(learned: Learned) -> Iterator[str]:
    if learned.began:
        yield f"Went on from step {learned.began}."
    yield learned.sentence
    if not learned.finished:
        yield (
            f"Queue it again and it goes on from step {len(learned.losses)}. "
            "To use it as it is, take the file with Load Concept."
        )


def _method(method: str, wish: Wish, base: Base) -> str:
    taken = ", which auto took" if wish.method == AUTO else ""
    return f"Method: {method}{taken}{'' if sourced(method, base.family).measured else _UNMEASURED.format(base.family)}."


def _about_captions(recipe: Recipe, role: str, dataset: ConceptDataset) -> Iterator[str]:
    captioned, pictures = sum(bool(picture.caption) for picture in dataset.pictures), len(dataset.pictures)
    if recipe.captions and recipe.rank and role == "subject" and captioned < pictures:
        yield (
            f"{captioned or 'None'} of {pictures} pictures {'have' if captioned > 1 else 'has'} a caption. Captions "
            "say where the subject is and what is beside it, not what it looks like; on the playground they bring it "
            "nearer and keep more of the prompt. Put Caption Pictures between Concept Dataset and this node, or write "
            "them on Concept Dataset."
        )
    if not recipe.captions and captioned:
        yield (
            f"{recipe.method} learned under its own prompts: the pictures' captions were not read, as asked. Take "
            "captions=false out of settings to have them read."
        )


def _about_patience(recipe: Recipe, dataset: ConceptDataset) -> Iterator[str]:
    if recipe.patience and len(dataset.held_out) < JUDGES:
        yield (
            f"patience={recipe.patience} did nothing: {len(dataset.held_out)} of the pictures are held out, and it "
            f"takes {JUDGES} to end a stage. Give 8 pictures or more, or take it out of settings."
        )


def _remembered(concept: Concept, path: Path, wish: Wish, base: Base) -> Lesson:
    sentence = f"Learned before in {concept.info.steps} steps; taken from {path.name}, nothing was trained."
    told = (*filter(None, (sentence, concept.info.note)), _method(concept.info.method, wish, base))
    return Lesson(concept, wish.placeholder, picture_from(concept.thumbnail), path, told)


def _findings(dataset: ConceptDataset, base: Base) -> tuple[str, ...]:
    """What only the training size can tell; the dataset has told the rest."""
    return tuple(found.sentence for found in examine(dataset, side_for(base)) if found.kind == "tiny")
