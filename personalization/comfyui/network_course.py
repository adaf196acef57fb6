"""Small networks over CLIP_VISION on the canvas: trained on its MODEL, CLIP and VAE, kept as files, and asked there."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import comfy.model_management as host
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..concept import Base
from ..learned import Step
from ..library import free_path
from ..network_file import NetworkFile, NetworkInfo, NetworkKind, Shape
from ..network_training import NetworkRecipe
from .canvas import Canvas, side_for
from .fingerprint import fingerprint_of
from .lesson import CURVE
from .memory import enough_memory
from .session import Session, training_session
from .vision import Vision

LARGE = 256 << 20  # bytes of weights from which memory is worth more than a third of the time
ALIKE = 0.98  # cosine of two probes; on the playground bf16 gives 0.99999, other weights -0.05

Recipe = TypeVar("Recipe", bound=NetworkRecipe)


@dataclass(frozen=True)
class NetworkWish:
    """What a designer asks for. 0 leaves a number to the recipe."""

    seed: int = 0
    steps: int = 0
    tokens: int = 0
    batch_size: int = 0
    learning_rate: float = 0.0

    def changed(self, own: Recipe) -> Recipe:
        """The recipe with the numbers that were asked for."""
        asked = {name: getattr(self, name) for name in ("steps", "tokens", "batch_size", "learning_rate")}
        return replace(own, **{name: number for name, number in asked.items() if number})


class Taught(NamedTuple):
    """What training gave, and sentences about it."""

    network: nn.Module
    losses: tuple[float, ...]
    finished: bool
    sentences: tuple[str, ...]


class NetworkLesson(NamedTuple):
    path: Path
    losses: tuple[float, ...]
    sentences: tuple[str, ...]
    finished: bool


OnStep = Callable[[Step], None]
Training = Callable[[Session, tuple[type[BaseException], ...], OnStep], Taught]  # in a session, until interrupted


@dataclass(frozen=True)
class NetworkCourse(ABC):
    """What a network is trained on, from and for how long."""

    kind: ClassVar[NetworkKind]
    recipes: ClassVar[Mapping[str, NetworkRecipe]]  # by family
    canvas: Canvas
    vision: Vision
    data: Any  # the kind's own: pictures, with their `hash`, and `unread`, a sentence for each file that is none
    wish: NetworkWish

    @abstractmethod
    def prepared(self) -> Training:
        """Everything that is encoded once, and how to train on it."""

    @property
    def recipe(self) -> Any:
        return self.wish.changed(self.recipes[self.canvas.base().family])

    @property
    def sides(self) -> tuple[int, int]:
        """Pixels of training, and of what the image encoder sees."""
        return side_for(self.canvas.base()), self.vision.side

    @property
    def encoders(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Pictures (1, h, w, 3) to latents and to tokens."""
        return self.canvas.encode, self.vision.tokens

    @property
    def key(self) -> str:
        seen = [*self.canvas.fingerprints, fingerprint_of(self.vision.model.patcher, "")]
        decisive = [self.data.hash, seen, self.recipe.as_header(), self.wish.seed]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def teach_network(course: NetworkCourse, name: str, folders: Sequence[Path], on_step: OnStep) -> NetworkLesson:
    """The network found in `folders` by what it is trained from, or trained now and written to the last of them."""
    with torch.inference_mode(False):
        key = course.key
        found = course.kind.trained_before(key, folders)
        if found:
            info = course.kind.read_info(found)
            told = f"Trained before in {info.steps} steps; taken from {found.name}, nothing was trained."
            return NetworkLesson(found, info.losses, (told,), True)
        taught = _taught(course, on_step)
        info = _info(course, taught, key)
        path = free_path(folders[-1], name)
        course.kind.save(NetworkFile(info, course.vision.probe(), taught.network.state_dict()), path)
        return NetworkLesson(path, info.losses, (*taught.sentences, *course.data.unread), taught.finished)


def _taught(course: NetworkCourse, on_step: OnStep) -> Taught:
    canvas = course.canvas
    with torch.no_grad():
        train = course.prepared()
    large = canvas.model.model_size() > LARGE
    memory = enough_memory(course.recipe.batch_size, course.kind.node)
    with memory, training_session(canvas.model, canvas.clip, large, canvas.name) as session:
        return train(session, (host.InterruptProcessingException,), on_step)


def _info(course: NetworkCourse, taught: Taught, key: str) -> NetworkInfo:
    """Without the key where training was stopped early: it would be found again."""
    base = course.canvas.base()
    return NetworkInfo(
        family=base.family,
        shape=taught.network.shape,  # pyright: ignore[reportArgumentType] - every network of a kind has one
        vision=course.vision.name,
        base=base.name,
        recipe=course.recipe.as_header(),
        data_hash=course.data.hash,
        seed=course.wish.seed,
        steps=len(taught.losses),
        losses=taught.losses[:: max(1, -(-len(taught.losses) // CURVE))],
        key=key if taught.finished else "",
    )


def trained_in(steps: int, pictures: int, whose: str, finished: bool) -> str:
    ended = "" if finished else ", stopped early; queued again it starts anew"
    return f"Trained in {steps} steps on {pictures} pictures of {whose}{ended}."


def hash_of(pictures: Sequence[Tensor]) -> str:
    """SHA-256 of pictures (h, w, 3) in their order."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(f"{tuple(picture.shape)}".encode() + picture.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


Network = TypeVar("Network", bound=nn.Module)


def loaded(network: Network, state: Mapping[str, Tensor]) -> tuple[Network, torch.device]:
    """On the host's device, where it casts and offloads it like its own networks; made with comfy.ops.manual_cast."""
    network.eval().load_state_dict(state)
    device = host.get_torch_device()
    host.load_model_gpu(comfy.model_patcher.ModelPatcher(network, device, host.unet_offload_device()))
    return network, device


def refuse_others(kind: NetworkKind[Shape], file: NetworkFile[Shape], base: Base, vision: Vision) -> None:
    """ValueError where file, MODEL and CLIP_VISION do not belong together."""
    info, own = file.info, f"This {kind.name} file was"
    if (info.family, info.shape.context) != (base.family, base.context_width):
        raise ValueError(
            f"{own} trained for {info.family} (context {info.shape.context}); the model is {base.family} "
            f"({base.context_width}). Load a {info.family} checkpoint, or use {kind.node} on this one."
        )
    probe = vision.probe()
    same = probe.shape == file.probe.shape
    if not same or float(torch.cosine_similarity(probe, file.probe, dim=0)) < ALIKE:
        raise ValueError(
            f"{own} trained with another CLIP_VISION ({info.vision}); this one is {vision.name}. "
            f"Load the one that it was trained with, or use {kind.node} with this one."
        )
