"""The wind tunnel: cases of the playground's world whose truth is known, pictures sampled from them, their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import comfy.sample
import comfy.samplers
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor

from ..personalization.dataset import ConceptDataset, dataset_of
from ..personalization.pictures import Picture
from ..personalization.scores import likeness
from ..playground.judge import Judge
from ..playground.model import CHANNELS, Playground
from ..playground.scores import asked, attributes, copied
from ..playground.world import (
    CLASSES,
    PROMPTS,
    RESOLUTION,
    Instance,
    Scene,
    Setting,
    describe,
    draw_instance,
    draw_scene,
    namesake,
    render,
)
from .kept import Kept

STEPS, CFG, SAMPLER, SCHEDULER = 20, 4.0, "euler", "normal"
TRAINING, HELD_OUT = 5, 4
BATCH = 64  # pictures through the VAE at once
SPLIT = "bench"


@dataclass(frozen=True)
class Case:
    """One instance that the base never saw: five pictures to learn from, others to score against."""

    instance: Instance
    training: Tensor  # uint8 (n, h, w, 3)
    held_out: Tensor
    real: Tensor  # (prompts, h, w, 3): the truth for every prompt
    again: Tensor  # the training pictures' settings, photographed anew: as near as two real pictures come
    settings: tuple[Setting, ...]
    shown: tuple[Setting, ...]  # of the training pictures
    seed: int

    @property
    def class_word(self) -> str:
        return self.instance.class_name

    @property
    def full_caption(self) -> str:
        return describe(self.instance)

    def captions(self, noun: str) -> list[str]:
        """What each training picture shows beside the subject, as a user would write it; none of its looks."""
        return [setting.caption(noun) for setting in self.shown]

    def dataset(self, captioned: bool = False) -> ConceptDataset:
        captions = self.captions("{}") if captioned else [""] * len(self.training)
        shown = zip(self.training, captions, strict=True)
        return dataset_of([Picture(f"{i}", pixels, caption=said) for i, (pixels, said) in enumerate(shown)])


class Sampled(NamedTuple):
    """Pictures (prompts, seeds, h, w, 3), uint8, of one method on one case."""

    images: Tensor
    settings: tuple[Setting, ...]


class Scores(NamedTuple):
    """Means over one case, of what web/docs/ConceptLoom_EvaluateConcept/en.md defines."""

    identity: float
    identity_train: float
    attributes: float
    copies: float


class Seen(NamedTuple):
    """What the judge sees of a case's own pictures after the VAE; unit vectors."""

    training: Tensor
    held_out: Tensor
    training_scenes: Tensor
    real_scenes: Tensor  # of all its pictures


def cases(count: int, world_seed: int, settings: Sequence[Setting] = PROMPTS) -> list[Case]:
    """`count` unseen instances, the classes in turn; another world seed gives others."""
    return [case(world_seed, number, tuple(settings)) for number in range(count)]


def case(world_seed: int, number: int, settings: tuple[Setting, ...]) -> Case:
    rng = np.random.default_rng([world_seed, number])
    instance = draw_instance(rng, CLASSES[number % len(CLASSES)], SPLIT)
    photos = [_photo(rng, instance) for _ in range(TRAINING + HELD_OUT)]
    pictures = _pictures(photos)
    real = _pictures([_staged(rng, instance, setting) for setting in settings])
    shown = tuple(setting_of(photo) for photo in photos[:TRAINING])
    again = _pictures([_staged(rng, instance, setting) for setting in shown])
    training, held_out = pictures[:TRAINING], pictures[TRAINING:]
    return Case(instance, training, held_out, real, again, settings, shown, world_seed * 1000 + number)


def _photo(rng: np.random.Generator, instance: Instance, background: str | None = None) -> Scene:
    return draw_scene(rng, subject=instance, second="none", style="photo", background=background, split=SPLIT)


def before(case: Case, background: str) -> Case:
    """The same instance, photographed for learning in front of one background only."""
    rng = np.random.default_rng([case.seed, 31])
    scenes = [_photo(rng, case.instance, background) for _ in range(len(case.training))]
    return replace(case, training=_pictures(scenes), shown=tuple(map(setting_of, scenes)))


def setting_of(scene: Scene) -> Setting:
    companion = scene.companion.name if scene.companion else "none"
    return Setting(scene.background, scene.position, companion, scene.style_name)


def _staged(rng: np.random.Generator, instance: Instance, setting: Setting) -> Scene:
    return draw_scene(
        rng,
        subject=instance,
        second="none",
        style=setting.style,
        background=setting.background,
        position=setting.position,
        companion=setting.companion,
        split=SPLIT,
    )


def _pictures(scenes: Sequence[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([render(scene).image for scene in scenes]))


class Tunnel:
    """The playground and a judge: samples prompts as a graph would, and scores the pictures."""

    def __init__(self, playground: Playground, judge: Judge, seeds: int = 2, kept: Kept | None = None) -> None:
        self.playground, self.judge, self.seeds, self.kept = playground, judge, seeds, kept or Kept()

    def sample(self, case: Case, noun: str, model: ModelPatcher | None = None, clip: CLIP | None = None) -> Sampled:
        """The case's prompts with `noun` for the subject, through CLIP, KSampler and VAE of the host."""
        model, clip = model or self.playground.model, clip or self.playground.clip
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        drawn = [
            self._drawn(model, clip, setting.caption(noun), negative, case.seed * 100 + number)
            for number, setting in enumerate(case.settings)
        ]
        return Sampled(torch.stack(drawn), case.settings)

    def _drawn(self, model: ModelPatcher, clip: CLIP, prompt: str, negative: list, seed: int) -> Tensor:
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = torch.zeros(self.seeds, CHANNELS, RESOLUTION // 8, RESOLUTION // 8)
        noise = comfy.sample.prepare_noise(latent, seed)
        latents = comfy.sample.sample(
            model, noise, STEPS, CFG, SAMPLER, SCHEDULER, positive, negative, latent, seed=seed, disable_pbar=True
        )
        return as_bytes(self.playground.vae.decode(latents))

    def through(self, images: Tensor) -> Tensor:
        return through(self.playground.vae, images)

    def score(self, case: Case, sampled: Sampled) -> Scores:
        images, seen = sampled.images.flatten(0, 1), self.seen(case)
        made, scenes = self.judge.identity(images), self.judge.scene(images)
        answers = self.judge.attributes(images)
        wanted = [asked(one, case.class_word) for one in sampled.settings for _ in range(sampled.images.shape[1])]
        return Scores(
            identity=float(likeness(made, seen.held_out).mean()),
            identity_train=float(likeness(made, seen.training).mean()),
            attributes=float(attributes(answers, wanted).mean()),
            copies=float(copied(scenes, seen.training_scenes, seen.real_scenes).float().mean()),
        )

    def seen(self, case: Case) -> Seen:
        shown = (case.training, case.held_out, case.real, case.again)
        training, held_out, real, again = (self.through(part) for part in shown)
        return Seen(
            self.judge.identity(training),
            self.judge.identity(held_out),
            self.judge.scene(training),
            self.judge.scene(torch.cat([training, held_out, real, again])),
        )

    def ceiling(self, case: Case) -> Scores:
        """The same scores for the truth of every prompt after the VAE."""
        return self.score(case, Sampled(self.through(case.real)[:, None], case.settings))

    def words_alone(self, case: Case) -> Scores:
        """The same scores for the truth about a namesake: all that words could ever tell a model of the instance."""
        rng = np.random.default_rng([case.seed, 61])
        other = _pictures([_staged(rng, namesake(case.instance, rng), setting) for setting in case.settings])
        return self.score(case, Sampled(self.through(other)[:, None], case.settings))


def through(vae: VAE, images: Tensor) -> Tensor:
    """Real pictures, uint8 (n, h, w, 3), after the VAE: what a perfect denoiser could give."""
    return as_bytes(torch.cat([vae.decode(vae.encode(part.float() / 255)) for part in images.split(BATCH)]))


def as_bytes(images: Tensor) -> Tensor:
    """(n, h, w, 3) in 0..1 -> uint8."""
    return (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
