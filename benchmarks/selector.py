"""`bench selector`: which score should choose the moment of learning that is kept?

Unseen instances, a set of 8 photographs each with two of them held out, as Concept Dataset does it; the method
(`--method`) learns four times its recipe's steps, long enough to learn too much. At 8 checkpoints every candidate says
what it sees without any truth, and the judge what is so. A candidate is worth its rank correlation with the judge over
the checkpoints, and costs what its choice lies below the best checkpoint (the oracle). Then the same steps on all 8
pictures: with a constant learning rate, learning anew for the chosen number of steps is that run's own checkpoint, with
one that falls only nearly.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..personalization.asked import SUBJECT, WORD
from ..personalization.comfyui.canvas import Canvas, latents_of
from ..personalization.comfyui.concept_clip import weave_clip
from ..personalization.comfyui.patch import weave_model
from ..personalization.comfyui.session import Session, training_session
from ..personalization.comfyui.studio import Job, drawn, located, photographed, seen
from ..personalization.composition import PlacedConcept, as_recommended
from ..personalization.concept import Concept
from ..personalization.crops import cut_out
from ..personalization.dataset import ConceptDataset, dataset_of
from ..personalization.evaluation import held_out_losses, held_out_of
from ..personalization.latents import TrainingLatents
from ..personalization.learned import Event, Preview
from ..personalization.learner import learn
from ..personalization.methods import Beginning, task_of
from ..personalization.pictures import Picture
from ..personalization.preview import Sitting
from ..personalization.recipe import Recipe, recipe_for
from ..personalization.scores import likeness
from ..playground.judge import load_judge
from ..playground.model import FAMILY, WEIGHTS, load
from ..playground.world import PROMPTS, Instance, draw_scene, render
from .choices import Choice, chosen_by_each
from .table import Table, arguments, print_table
from .wind_tunnel import SPLIT, Case, Tunnel, cases

METHOD = "quick"
INSTANCES, QUICK_INSTANCES = 12, 3
PICTURES, HELD_OUT = 8, 2
SHARES = (0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the recipe's steps
SETTINGS = PROMPTS[:5]  # photographs: their identity is the clearest
PROBES, SITTING = SUBJECT[:3], Sitting()
JUDGED = ("identity", "attributes")


class Selector:
    def __init__(self, method: str, world_seed: int, instances: int, pictures: int, weights: Path) -> None:
        playground = load(weights)
        self.tunnel, self.vision = Tunnel(playground, load_judge("first", weights), seeds=1), playground.clip_vision
        self.canvas = Canvas(playground.model, playground.clip, playground.vae)
        self.base = self.canvas.base()
        self.cases, self.pictures, self.world_seed = cases(instances, world_seed, SETTINGS), pictures, world_seed
        recipe = recipe_for(method, FAMILY, "subject")
        self.checkpoints = tuple(round(share * recipe.steps) for share in SHARES)
        self.recipe: Recipe = replace(recipe, steps=self.checkpoints[-1])

    def row(self, number: int) -> dict:
        began, case = time.perf_counter(), self.cases[number]
        every = self._photographs(case, number)
        split, whole = (dataset_of(every, count) for count in (HELD_OUT, 0))
        latents = latents_of(self.canvas, split, self.base)
        states = self._learned(case, without_held_out(latents))
        anew = self._learned(case, latents_of(self.canvas, whole, self.base))
        return {
            "steps": list(self.checkpoints),
            **self._losses(states, latents),
            **self._probes(states, case.class_word, split),
            **self._judged(case, states),
            "anew": self._judged(case, anew),
            "seconds": round(time.perf_counter() - began, 1),
        }

    def _photographs(self, case: Case, number: int) -> list[Picture]:
        rng = np.random.default_rng([self.world_seed, number, 43])
        more = [photograph(rng, case.instance) for _ in range(self.pictures - len(case.training))]
        every = torch.stack([*case.training, *more])[: self.pictures]
        return [Picture(f"{i}", pixels) for i, pixels in enumerate(every)]

    def _learned(self, case: Case, latents: TrainingLatents) -> list[Concept]:
        """The concept at every checkpoint."""
        found: dict[int, Concept] = {}

        def keep(event: Event) -> None:
            if isinstance(event, Preview) and event.step in self.checkpoints:
                found[event.step] = event.concept

        with self._session() as session:
            words = ("it", case.class_word, "subject")
            beginning = Beginning(
                session.encoder, self.base, self.recipe, *words, denoiser=session.denoiser, latents=latents
            )
            learn(replace(task_of(beginning, case.seed), previews=self.recipe.steps), keep)
        return [found[step] for step in self.checkpoints]

    def _session(self):
        return training_session(self.canvas.model, self.canvas.clip)

    def _losses(self, states: Sequence[Concept], latents: TrainingLatents) -> dict[str, list[float]]:
        """Held-out denoising loss as the learner takes it, with one held-out picture and with all of them."""
        with self._session() as session:
            return {
                f"loss, {count} held out": [
                    held_out_loss(session, one, first(latents, count), self.recipe) for one in states
                ]
                for count in range(1, HELD_OUT + 1)
            }

    def _probes(self, states: Sequence[Concept], class_word: str, split: ConceptDataset) -> dict[str, list[float]]:
        """Likeness of a few fixed-seed pictures to the held-out ones, as CLIP_VISION sees them, whole and cut out."""
        jobs = [Job(text.replace(WORD, "<it>"), (as_recommended(one),), SITTING) for one in states for text in PROBES]
        whole = (drawn(self.canvas, jobs), photographed(self.canvas, split.holdout))
        things = [cut_out(part, located(self.canvas, part, class_word)) for part in whole]
        found = {}
        for name, (made, real) in (("probe, whole", whole), ("probe, cut out", things)):
            near = likeness(seen(self.vision, made), seen(self.vision, real))
            found[name] = [round(float(part.mean()), 4) for part in near.split(len(PROBES))]
        return found

    def _judged(self, case: Case, states: Sequence[Concept]) -> dict[str, list[float]]:
        scored = [self._score(case, one) for one in states]
        return {name: [round(float(getattr(one, name)), 4) for one in scored] for name in JUDGED}

    def _score(self, case: Case, concept: Concept):
        composition = (as_recommended(concept),)
        model, clip = weave_model(self.canvas.model, composition), weave_clip(self.canvas.clip, composition)
        return self.tunnel.score(case, self.tunnel.sample(case, "<it>", model, clip))


def photograph(rng: np.random.Generator, instance: Instance) -> Tensor:
    scene = draw_scene(rng, subject=instance, second="none", style="photo", split=SPLIT)
    return torch.from_numpy(render(scene).image)


def without_held_out(latents: TrainingLatents) -> TrainingLatents:
    return first(latents, 0)


def first(latents: TrainingLatents, held_out: int) -> TrainingLatents:
    """With that many of the held-out pictures."""
    return replace(latents, held_out=latents.held_out[:held_out], held_masks=latents.held_masks[:held_out])


@torch.no_grad()
def held_out_loss(session: Session, concept: Concept, latents: TrainingLatents, recipe: Recipe) -> float:
    composition = (PlacedConcept(concept, sparing=False),)  # as the learner sees it
    context = session.encoder.encode(recipe.templates[0].replace("{}", "<it>"), composition)
    held = held_out_of(latents, session.denoiser, recipe)
    losses = held_out_losses(held, session.denoiser, context, composition, recipe.batch_size)
    return float(losses.log().mean())  # the learner's units of the start shift this by a constant


def main(argv: list[str]) -> int:
    parser = arguments("selector")
    parser.add_argument("--method", default=METHOD, help=f"{METHOD} if none")
    parser.add_argument("--instances", type=int, help="how many, instead of the usual number")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="in a set, two of them held out")
    wanted = parser.parse_args(argv)
    count = wanted.instances or (QUICK_INSTANCES if wanted.quick else INSTANCES)
    selector = Selector(wanted.method, wanted.world_seed, count, wanted.pictures, wanted.weights or WEIGHTS)
    about = {"bench": "selector", "method": wanted.method, "world_seed": wanted.world_seed, "pictures": wanted.pictures}
    table = Table(wanted.json, {**about, "weights": selector.base.fingerprint})
    rows = []
    for number in range(count):
        rows.append(table.row(f"instance {number}", lambda number=number: selector.row(number)))
        print(f"instance {number}: {rows[-1]['seconds']:.0f} s", flush=True)
    table.values["candidates"] = chosen_by_each(rows)
    table.write()
    show(table.values["candidates"])
    return 0


def show(found: Mapping[str, Mapping]) -> None:
    heads = ("chosen by", *(field.replace("_", " ") for field in Choice._fields), "anew gains")
    print_table(
        heads,
        [(name, *(one[field] for field in Choice._fields), "{:+.3f} ({:+.3f}..{:+.3f})".format(*one["anew_gains"]))
         for name, one in found.items()],
    )  # fmt: skip
