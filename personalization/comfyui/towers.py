"""Towers on the canvas: trained on its MODEL, CLIP and VAE, and asked for concepts with its CLIP_VISION."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ..concept import Base, Concept, ConceptInfo
from ..thumbnail import jpeg_of, small
from ..towers.file import TOWERS, TowersFile
from ..towers.instruct import ConceptWords, Instructions, instructed, instructions
from ..towers.networks import Towers
from ..towers.recipe import RECIPES
from ..towers.training import PAIRS, TowersTask, Trained, train
from ..towers.triplets import Sizes, triplets_of
from .canvas import checkpoint_name
from .family import base_of
from .network_course import NetworkCourse, OnStep, Taught, Training, hash_of, loaded, refuse_others, trained_in
from .session import Session
from .vision import Vision


class Making(NamedTuple):
    """Style, semantics and both, and the weight of every history picture."""

    concepts: tuple[Concept, ...]
    weights: tuple[float, ...]


class TowersCourse(NetworkCourse):
    """`data` are Users."""

    kind, recipes = TOWERS, RECIPES

    def prepared(self) -> Training:
        recipe, seed = self.recipe, self.wish.seed
        triplets = triplets_of(self.data, Sizes(*self.sides), recipe.copies, seed, self.encoders)

        def training(session: Session, interrupts: tuple[type[BaseException], ...], on_step: OnStep) -> Taught:
            made = train(TowersTask(*session, triplets, recipe, seed, interrupts), on_step)
            return Taught(made.towers, made.losses, made.finished, tuple(self._told(made)))

        return training

    def _told(self, made: Trained) -> Iterator[str]:
        pictures, folders = sum(len(user.pictures) for user in self.data.users), len(self.data.users)
        yield trained_in(len(made.losses), pictures, f"{folders} sub-folders", made.finished)
        shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(PAIRS, made.pairs, strict=True))
        yield f"What was hard was asked more often, in the end: {shares}."


class Pictures(NamedTuple):
    """Each (h, w, 3) in 0..1, of any size."""

    history: Sequence[Tensor]
    reference: Tensor

    @property
    def hash(self) -> str:
        return hash_of((*self.history, self.reference))


def make_concepts(
    model: comfy.model_patcher.ModelPatcher,
    vision: Vision,
    file: TowersFile,
    pictures: Pictures,
    words: Sequence[ConceptWords],
) -> Making:
    """Concepts for `model` under three words. ValueError where towers, MODEL and CLIP_VISION do not belong together."""
    base = base_of(model, checkpoint_name(model))
    refuse_others(TOWERS, file, base, vision)
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
    towers, device = loaded(Towers(file.info.shape, comfy.ops.manual_cast), file.state)
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
