"""Last stage: an encoder of the world's things, so that Nested Attention Injector can be tried without training one.

It sees instances of the split "base", in photographs; the benches' instances are of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...personalization.comfyui.canvas import Canvas
from ...personalization.comfyui.lesson import CURVE
from ...personalization.comfyui.session import training_session
from ...personalization.comfyui.vision import Vision
from ...personalization.learned import Step
from ...personalization.nested_encoder.file import ENCODERS, EncoderFile, EncoderInfo
from ...personalization.nested_encoder.recipe import RECIPES
from ...personalization.nested_encoder.subjects import Views
from ...personalization.nested_encoder.training import EncoderTask, train
from ..model import FAMILY, Playground
from ..world import CLASSES, Scene, Setting, draw_instance, draw_scene, render

SUBJECTS, PHOTOGRAPHS, STEPS = 4000, 3, 5000
SEED, WORLD = 3, 101


def train_encoder(playground: Playground, path: Path, subjects: int = SUBJECTS, steps: int = STEPS) -> None:
    canvas, vision = Canvas(*playground[:3]), Vision(playground.clip_vision)
    recipe = replace(RECIPES[FAMILY], steps=steps)
    views = _views(subjects, canvas, vision)
    with training_session(canvas.model, canvas.clip) as session:
        made = train(EncoderTask(*session, views, recipe, SEED), _report)
    losses = made.losses[:: max(1, -(-len(made.losses) // CURVE))]
    header, name = recipe.as_header(), vision.name
    info = EncoderInfo(
        FAMILY, made.network.shape, name, recipe=header, seed=SEED, steps=len(made.losses), losses=losses
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    ENCODERS.save(EncoderFile(info, vision.probe(), made.network.state_dict()), path)


def _views(subjects: int, canvas: Canvas, vision: Vision) -> Views:
    scenes = list(_photographed(subjects))
    shown = [torch.from_numpy(np.stack([render(one).image for one in own])).float() / 255 for own in scenes]
    tokens = [vision.tokens(own) for own in shown]
    return Views(
        torch.cat([canvas.encode(own).float().cpu() for own in shown]),
        torch.cat(tokens)[:, None].half(),
        torch.arange(subjects).repeat_interleave(PHOTOGRAPHS),
        tuple(_caption(scene) for own in scenes for scene in own),
        tuple(own[0].subject.instance.class_name for own in scenes),
    )


def _photographed(subjects: int) -> Iterator[list[Scene]]:
    rng = np.random.default_rng(WORLD)
    for number in range(subjects):
        own = draw_instance(rng, CLASSES[number % len(CLASSES)], "base")
        yield [draw_scene(rng, subject=own, second="none", style="photo", split="base") for _ in range(PHOTOGRAPHS)]


def _caption(scene: Scene) -> str:
    """What it shows beside the subject, whose place is {}."""
    companion = scene.companion.name if scene.companion else "none"
    return Setting(scene.background, scene.position, companion, scene.style_name).caption("{}")


def _report(step: Step) -> None:
    if step.step % 50 == 0:
        pace = step.step / step.seconds
        print(f"nested encoder: {step.step} steps, loss {step.loss:.4f}, {pace:.2f} steps/s", flush=True)
