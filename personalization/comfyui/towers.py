"""Towers on the canvas: trained on its MODEL, CLIP and VAE, and asked for concepts with its CLIP_VISION."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import comfy.model_management as host
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ..concept import Base, Concept, ConceptInfo
from ..learned import Step
from ..library import free_path
from ..thumbnail import jpeg_of, small
from ..towers.file import TowersFile, TowersInfo, read_info, save, trained_before
from ..towers.instruct import ConceptWords, Instructions, instructed, instructions
from ..towers.networks import Towers
from ..towers.recipe import RECIPES, TowersRecipe
from ..towers.training import PAIRS, TowersTask, Trained, train
from ..towers.triplets import Sizes, Users, triplets_of
from .canvas import Canvas, checkpoint_name, side_for
from .family import base_of
from .fingerprint import fingerprint_of
from .lesson import CURVE
from .memory import enough_memory
from .session import training_session
from .vision import Vision

LARGE = 256 << 20  # bytes of weights from which memory is worth more than a third of the time
ALIKE = 0.98  # cosine of two probes; on the playground bf16 gives 0.99999, other weights -0.05


@dataclass(frozen=True)
class TowersWish:
    """What a designer asks for. 0 leaves a number to the recipe."""

    seed: int = 0
    steps: int = 0
    tokens: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0

    def recipe(self, family: str) -> TowersRecipe:
        own = RECIPES[family]
        return replace(
            own,
            steps=self.steps or own.steps,
            tokens=self.tokens or own.tokens,
            batch_size=self.batch_size or own.batch_size,
            learning_rate=self.learning_rate or own.learning_rate,
        )


class TowersLesson(NamedTuple):
    path: Path
    losses: tuple[float, ...]
    sentences: tuple[str, ...]
    finished: bool


class Making(NamedTuple):
    """Style, semantics and both, and the weight of every history picture."""

    concepts: tuple[Concept, ...]
    weights: tuple[float, ...]


class TowersCourse(NamedTuple):
    """What towers are trained on and from."""

    canvas: Canvas
    vision: Vision
    users: Users
    wish: TowersWish


def teach_towers(
    course: TowersCourse, name: str, folders: Sequence[Path], on_step: Callable[[Step], None]
) -> TowersLesson:
    """Towers found in `folders` by what they are trained from, or trained now and written to the last of them."""
    with torch.inference_mode(False):
        base = course.canvas.base()
        recipe = course.wish.recipe(base.family)
        key = _key(course, recipe)
        found = trained_before(key, folders)
        if found:
            info = read_info(found)
            told = f"Trained before in {info.steps} steps; taken from {found.name}, nothing was trained."
            return TowersLesson(found, info.losses, (told,), True)
        trained = _trained(course, base, recipe, on_step)
        info = replace(_info(course, base, recipe, trained), key=key if trained.finished else "")
        path = free_path(folders[-1], name)
        save(TowersFile(info, course.vision.probe(), trained.towers.state_dict()), path)
        return TowersLesson(path, info.losses, (*_told(trained, course.users), *course.users.unread), trained.finished)


def _key(course: TowersCourse, recipe: TowersRecipe) -> str:
    seen = [*course.canvas.fingerprints, fingerprint_of(course.vision.model.patcher, "")]
    decisive = [course.users.hash, seen, recipe.as_header(), course.wish.seed]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _trained(course: TowersCourse, base: Base, recipe: TowersRecipe, on_step: Callable[[Step], None]) -> Trained:
    canvas, seed = course.canvas, course.wish.seed
    sizes = Sizes(side_for(base), course.vision.side)
    with torch.no_grad():
        triplets = triplets_of(course.users, sizes, recipe.copies, seed, (canvas.encode, course.vision.tokens))
    large = canvas.model.model_size() > LARGE
    memory = enough_memory(recipe.batch_size, "Train Towers")
    with memory, training_session(canvas.model, canvas.clip, large, canvas.name) as (denoiser, encoder):
        interrupts = (host.InterruptProcessingException,)
        return train(TowersTask(denoiser, encoder, triplets, recipe, seed, interrupts), on_step)


def _info(course: TowersCourse, base: Base, recipe: TowersRecipe, trained: Trained) -> TowersInfo:
    """Without the key, which towers whose training was stopped early must not have: they would be found again."""
    return TowersInfo(
        family=base.family,
        shape=trained.towers.shape,
        vision=course.vision.name,
        base=base.name,
        recipe=recipe.as_header(),
        data_hash=course.users.hash,
        seed=course.wish.seed,
        steps=len(trained.losses),
        losses=trained.losses[:: max(1, -(-len(trained.losses) // CURVE))],
    )


def _told(trained: Trained, users: Users) -> Iterator[str]:
    pictures = sum(len(user.pictures) for user in users.users)
    ended = "" if trained.finished else ", stopped early; queued again it starts anew"
    yield f"Trained in {len(trained.losses)} steps on {pictures} pictures of {len(users.users)} sub-folders{ended}."
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(PAIRS, trained.pairs, strict=True))
    yield f"What was hard was asked more often, in the end: {shares}."


class Pictures(NamedTuple):
    """Each (h, w, 3) in 0..1, of any size."""

    history: Sequence[Tensor]
    reference: Tensor

    @property
    def hash(self) -> str:
        digest = hashlib.sha256()
        for picture in (*self.history, self.reference):
            digest.update(f"{tuple(picture.shape)}".encode() + picture.cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()


def make_concepts(
    model: comfy.model_patcher.ModelPatcher,
    vision: Vision,
    file: TowersFile,
    pictures: Pictures,
    words: Sequence[ConceptWords],
) -> Making:
    """Concepts for `model` under three words. ValueError where towers, MODEL and CLIP_VISION do not belong together."""
    base = base_of(model, checkpoint_name(model))
    _refuse_other_model(file.info, base)
    _refuse_other_vision(file, vision)
    history = torch.cat([vision.tokens(one[None]) for one in pictures.history])
    made = _asked(file, history, vision.tokens(pictures.reference[None]))
    origin = _origin(file, base, pictures)
    shown = (pictures.history[0], pictures.reference, pictures.reference)
    concepts = (
        replace(instructed(one, tokens, origin), thumbnail=jpeg_of(small(picture[None].cpu())))
        for one, tokens, picture in zip(words, (made.style, made.semantics, made.both), shown, strict=True)
    )
    return Making(tuple(concepts), tuple(made.weights.tolist()))


def _asked(file: TowersFile, history: Tensor, reference: Tensor) -> Instructions:
    """On the host's device, where it casts and offloads them like its own networks."""
    towers = Towers(file.info.shape, comfy.ops.manual_cast).eval()
    towers.load_state_dict(file.state)
    device = host.get_torch_device()
    patcher = comfy.model_patcher.ModelPatcher(towers, device, host.unet_offload_device())
    host.load_model_gpu(patcher)
    made = instructions(towers, history.to(device), reference.to(device))
    return Instructions(*(one.cpu() for one in made))


def _origin(file: TowersFile, base: Base, pictures: Pictures) -> ConceptInfo:
    """Everything about the concepts but their words."""
    info = file.info
    recipe = {"towers": file.hash, "vision": info.vision, "history": len(pictures.history)}
    words = ConceptWords("towers", "picture", "both")._asdict()
    return ConceptInfo(
        name="",
        phrase="[V]",
        **words,
        base=base,
        method="towers",
        recipe=recipe,
        data_hash=pictures.hash,
        seed=info.seed,
        steps=info.steps,
    )


def _refuse_other_model(info: TowersInfo, base: Base) -> None:
    if (info.family, info.shape.context) != (base.family, base.context_width):
        raise ValueError(
            f"These towers were trained for {info.family} (context {info.shape.context}); the model is {base.family} "
            f"({base.context_width}). Load a {info.family} checkpoint, or train towers on this one."
        )


def _refuse_other_vision(file: TowersFile, vision: Vision) -> None:
    probe = vision.probe()
    same = probe.shape == file.probe.shape
    if not same or float(torch.cosine_similarity(probe, file.probe, dim=0)) < ALIKE:
        raise ValueError(
            f"These towers were trained with another CLIP_VISION ({file.info.vision}); this one is {vision.name}. "
            "Load the one that they were trained with, or train towers with this one."
        )
