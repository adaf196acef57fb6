"""What a method makes of a case of the wind tunnel: pictures, what they cost, and the row of a table over all cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from comfy.model_patcher import ModelPatcher

from ..personalization.checkpoint import save
from ..personalization.comfyui.canvas import Canvas, latents_of
from ..personalization.comfyui.captions import captioned
from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.nested_encoder import encoded_concept
from ..personalization.comfyui.patch import weave_model
from ..personalization.comfyui.session import training_session
from ..personalization.comfyui.vision import Vision
from ..personalization.composition import PlacedConcept, as_recommended
from ..personalization.concept import Concept
from ..personalization.dataset import ConceptDataset
from ..personalization.learner import learn
from ..personalization.methods import Beginning, task_of
from ..personalization.nested_encoder.file import ENCODERS
from ..personalization.recipe import Recipe, recipe_for
from ..playground.model import FAMILY
from .kept import Took, key_of
from .wind_tunnel import Case, Sampled, Tunnel

SHORTEST = 0.1  # seconds of learning, where captions take as long as there is: a step
Words = tuple[str, str, str]  # placeholder, class word, role


class Captions(Enum):
    """Who says what the pictures that are learned from show; the value stands behind the name of a row."""

    NONE = ""
    WRITTEN = ", captions"
    MODELS = ", model's captions"  # Caption Pictures, in the seconds of learning


def reading(recipe: Recipe, captions: Captions) -> Recipe:
    """`recipe` as Learn Concept takes it where every picture has such captions."""
    return recipe if captions is Captions.NONE else recipe.captioned()


class Cost(NamedTuple):
    seconds: float = 0.0
    steps: int = 0
    params: int = 0
    file_bytes: int = 0


class Made(NamedTuple):
    """A method's pictures for one case and what they cost."""

    sampled: Sampled
    cost: Cost = Cost()


Method = Callable[[Tunnel, Case], Made]
Also = Callable[[Case, Sampled], dict[str, float]]


def class_word(tunnel: Tunnel, case: Case) -> Made:
    return Made(tunnel.sample(case, case.class_word))


def full_caption(tunnel: Tunnel, case: Case) -> Made:
    return Made(tunnel.sample(case, case.full_caption))


def concept_method(
    recipe: Recipe, scratch: Path, used_on: ModelPatcher | None = None, captions: Captions = Captions.NONE
) -> Method:
    """Learns a subject on the playground, and draws it there or on the model `used_on`."""

    def make(tunnel: Tunnel, case: Case) -> Made:
        dataset = case.dataset(captions is Captions.WRITTEN)
        concept, took = learned(recipe, tunnel, dataset, _words(case), case.seed, captions)
        save(concept, scratch / "concept.safetensors")
        file_bytes = (scratch / "concept.safetensors").stat().st_size
        cost = Cost(*took, trained_parameters(concept, recipe), file_bytes)
        return Made(drawn(as_recommended(concept), tunnel, case, model=used_on), cost)

    return make


def encoded_method(encoder: Path, scratch: Path) -> Method:
    """What Nested Attention Injector reads from the case's training pictures, without learning."""
    file = ENCODERS.load(encoder)

    def make(tunnel: Tunnel, case: Case) -> Made:
        began, (model, clip, _, clip_vision) = time.perf_counter(), tunnel.playground
        pictures, words = list(case.training.float() / 255), _words(case)[:2]
        concept = encoded_concept(model, clip, Vision(clip_vision), file, pictures, words)
        seconds = time.perf_counter() - began
        save(concept, scratch / "concept.safetensors")
        file_bytes = (scratch / "concept.safetensors").stat().st_size
        return Made(drawn(as_recommended(concept), tunnel, case), Cost(seconds, file_bytes=file_bytes))

    return make


def drawn(
    placed: PlacedConcept, tunnel: Tunnel, case: Case, noun: str = "", model: ModelPatcher | None = None
) -> Sampled:
    """The case's prompts with the concept woven in; `noun` stands for the subject, by default the concept's word."""
    woven = weave_model(model or tunnel.playground.model, (placed,))
    return tunnel.sample(case, noun or f"<{placed.word}>", woven, weave_clip(tunnel.playground.clip, (placed,)))


def learned_subject(recipe: Recipe, tunnel: Tunnel, case: Case, captions: Captions = Captions.NONE) -> Concept:
    dataset = case.dataset(captions is Captions.WRITTEN)
    return learned_by(recipe, tunnel, dataset, _words(case), case.seed, captions)


def _words(case: Case) -> Words:
    return "it", case.class_word, "subject"


def learned_by(
    recipe: Recipe,
    tunnel: Tunnel,
    dataset: ConceptDataset,
    words: Words,
    seed: int,
    captions: Captions = Captions.NONE,
) -> Concept:
    """What Learn Concept does between its sockets, without a graph, or with Caption Pictures before it."""
    return learned(recipe, tunnel, dataset, words, seed, captions)[0]


def learned(
    recipe: Recipe,
    tunnel: Tunnel,
    dataset: ConceptDataset,
    words: Words,
    seed: int,
    captions: Captions = Captions.NONE,
) -> tuple[Concept, Took]:
    began = time.perf_counter()
    canvas = Canvas(tunnel.playground.model, tunnel.playground.clip, tunnel.playground.vae)
    base = canvas.base()
    latents = latents_of(canvas, dataset, base)

    def make() -> tuple[Concept, Took]:
        shown, own = latents, recipe
        if captions is Captions.MODELS:
            asking = time.perf_counter()
            shown = latents_of(canvas, captioned(canvas, dataset, *words[1:]), base)
            left = max(recipe.seconds - (time.perf_counter() - asking), SHORTEST)
            own = replace(recipe, seconds=left)
        with training_session(canvas.model, canvas.clip) as session:
            beginning = Beginning(session.encoder, base, own, *words, denoiser=session.denoiser, latents=shown)
            concept = learn(task_of(beginning, seed)).concept
        return concept, Took(time.perf_counter() - began, concept.info.steps)

    asked = (captions.value,) if captions is Captions.MODELS else ()
    key = key_of(base.fingerprint, recipe.as_header(), words, seed, latents.captions, *asked, *latents.train)
    return tunnel.kept.concept(key, make)


def trained_parameters(concept: Concept, recipe: Recipe) -> int:
    trained = (t for name, t in concept.tensors().items() if any(stage.includes(name) for stage in recipe.stages))
    return sum(tensor.numel() for tensor in trained)


def timed(method: str, seconds: float, role: str = "subject") -> Recipe:
    """The playground's recipe of `method`, with as many steps as fit in the seconds."""
    return replace(recipe_for(method, FAMILY, role), seconds=seconds, steps=0)


def taking(method: str, steps: int) -> Recipe:
    """The playground's recipe of `method` for a subject, with so many steps: the same on a busy machine."""
    return replace(recipe_for(method, FAMILY, "subject"), steps=steps)


def recipe_key(*recipes: Recipe) -> str:
    """Of all that decides what is learned and how it is used."""
    return key_of(*({**one.decisive(), "strength": one.strength} for one in recipes))


def row(tunnel: Tunnel, cases: Sequence[Case], method: Method, also: Also = lambda case, sampled: {}) -> dict:
    """Mean scores and costs of a method over the cases; `also` scores what only some tables ask."""
    costs, per_case = [], []
    for case in cases:
        sampled, cost = method(tunnel, case)
        costs.append(cost)
        per_case.append({**tunnel.score(case, sampled)._asdict(), **also(case, sampled)})
    means = {name: round(float(np.mean([one[name] for one in per_case])), 4) for name in per_case[0]}
    return {
        **means,
        "gap": round(means["identity_train"] - means["identity"], 4),
        **_spent(costs),
        "per_case": per_case,
    }


def _spent(costs: Sequence[Cost]) -> dict[str, float | int]:
    seconds, *numbers = zip(*costs, strict=True)
    means = [int(np.mean(values)) for values in numbers]
    return {"seconds": round(float(np.mean(seconds)), 2), **dict(zip(Cost._fields[1:], means, strict=True))}


def of(row: dict, score: str = "identity") -> np.ndarray:
    """A score of every case of a row."""
    return np.array([one[score] for one in row["per_case"]])
