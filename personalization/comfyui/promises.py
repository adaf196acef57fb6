"""Which promises hold in this ComfyUI: a short learning, a few samplings, and bits compared with bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..checkpoint import load
from ..composition import PlacedConcept
from ..dataset import ConceptDataset
from ..report import Report
from ..wish import Wish
from .canvas import Canvas
from .concept_clip import weave_clip
from .lesson import Lesson, teach
from .patch import weave_model

STEPS, SAMPLED, GUIDANCE, CELLS = 20, 3, 4.0, 8
ASKED, PLAIN, OTHER = "a photo of <mug> on the beach", "a photo of mug on the beach", "a red bag in the snow"
WISH = Wish("mug", "mug", "subject", "quick", steps=STEPS, batch_size=4)


class Promise(NamedTuple):
    name: str
    held: bool
    sentence: str


class _Trial(NamedTuple):
    canvas: Canvas
    weights: str  # their hash before learning
    lesson: Lesson


def promises(canvas: Canvas, dataset: ConceptDataset, folder: Path) -> tuple[Promise, ...]:
    """Learns `STEPS` steps into `folder`. What raises is a promise that does not hold, with its reason."""
    weights = _weights(canvas)
    found: list[Lesson] = []
    learned = _tried(
        f"A concept is learned in {STEPS} steps", lambda: found.append(_learned(canvas, dataset, folder)) or ""
    )
    if not found:
        return (learned,)
    trial = _Trial(canvas, weights, found[0])
    return (learned, *(_tried(name, partial(check, trial)) for name, check in CHECKS.items()))


def _tried(name: str, check: Callable[[], str]) -> Promise:
    """`check` says what is wrong, or nothing. Any failure of a host that we do not know is an answer here."""
    try:
        wrong = check()
    except Exception as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Promise(name, not wrong, f"{name}: {wrong or 'yes'}.")


def _learned(canvas: Canvas, dataset: ConceptDataset, folder: Path) -> Lesson:
    return teach(canvas, dataset, WISH, [folder], lambda event, picture_of: None)


def _kept_weights(trial: _Trial) -> str:
    return "" if _weights(trial.canvas) == trial.weights else "learning or sampling changed a weight"


def _round_trip(trial: _Trial) -> str:
    concept = load(trial.lesson.path)
    return "" if concept.hash == trial.lesson.concept.hash else "the file holds other tensors than were learned"


def _acts(trial: _Trial) -> str:
    told: list[Report] = []
    picture = _woven(trial, ASKED, 1.0, told)
    if not told or told[-1].acted < told[-1].sites or not told[-1].sites:
        return told[-1].sentence if told else "nothing was reported after sampling"
    same = torch.equal(picture, _drawn(trial.canvas.model, trial.canvas.clip, PLAIN))
    return "the picture is the same as without it" if same else ""


def _silent(trial: _Trial) -> str:
    plain, woven = _drawn(trial.canvas.model, trial.canvas.clip, PLAIN), _woven(trial, ASKED, 0.0)
    return _difference(plain, woven)


def _absent(trial: _Trial) -> str:
    plain, woven = _drawn(trial.canvas.model, trial.canvas.clip, OTHER), _woven(trial, OTHER, 1.0)
    return _difference(plain, woven)


def _difference(one: Tensor, other: Tensor) -> str:
    return "" if torch.equal(one, other) else f"pictures differ by up to {float((one - other).abs().max()):.1e}"


CHECKS: dict[str, Callable[[_Trial], str]] = {
    "It acts at every site": _acts,
    "Strength 0 is the class word, bit for bit": _silent,
    "A prompt without the word is untouched, bit for bit": _absent,
    "Its file is written and read": _round_trip,
    "Base weights are unchanged, bit for bit": _kept_weights,
}


def _woven(trial: _Trial, text: str, strength: float, told: list[Report] | None = None) -> Tensor:
    placed = (replace(PlacedConcept(trial.lesson.concept), strength=strength),)
    heard = None if told is None else told.extend
    model, clip = weave_model(trial.canvas.model, placed, heard), weave_clip(trial.canvas.clip, placed)
    return _drawn(model, clip, text)


def _drawn(model: ModelPatcher, clip: comfy.sd.CLIP, text: str) -> Tensor:
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(one)) for one in (text, ""))
    latent = torch.zeros(1, model.model.latent_format.latent_channels, CELLS, CELLS)
    noise = comfy.sample.prepare_noise(latent, 0)
    return comfy.sample.sample(
        model, noise, SAMPLED, GUIDANCE, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=0
    ).cpu()


def _weights(canvas: Canvas) -> str:
    digest = hashlib.sha256()
    for network in (canvas.model.model, canvas.clip.cond_stage_model, canvas.vae.patcher.model):
        for name, weight in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
