"""The learner: the visible loop from a starting concept to the best one, one step at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Generator, Tensor

from .attractor import attractors, with_attractors
from .batch import Batch, Prompts, draw, training_texts
from .composition import PlacedConcept
from .concept import Concept
from .denoiser import Denoiser, PromptEncoder
from .evaluation import held_out_losses, held_out_of
from .latents import TrainingLatents
from .learned import Event, Held, Learned, LearningDiverged, Preview, Started, Step, ended_early, told
from .learning_state import Kept, LearningState, copies, fresh_optimizer, starting_state
from .prior import Prior
from .recipe import CHECK_SHARE, FORWARD_COST, Recipe, Stage
from .sites import Site
from .snapshot import Snapshot, restored, taken
from .training_pass import TrainingPass

TRIALS = 3  # steps timed and thrown away when the budget is in seconds; the first one warms up
SNAPSHOT_SHARE = 0.02  # of the time may go to keeping snapshots
LAST_LOOK = 0.5  # seconds that a look at the held-out pictures may take when asked to stop
JUDGES = 2  # held-out pictures that it takes to choose a state; a single one stops far too early (benchmarks/trials.md)
GROWN = 10.0  # times its start: a tensor so large points to the learning rate


@dataclass(frozen=True)
class LearnTask:
    """What is learned from what. The concept's tensors are never touched: the learner trains fp32 copies.

    `interrupts` are exceptions that mean "stop and keep the best", as ComfyUI raises them from inside a model.
    `keep` gets a snapshot every `keep_every` seconds and when stopped; with one of them as `snapshot` the same task
    goes on from there, to the same tensors.
    """

    denoiser: Denoiser
    prompt_encoder: PromptEncoder
    concept: Concept
    latents: TrainingLatents
    recipe: Recipe
    seed: int = 0
    previews: int = 0
    interrupted: Callable[[], bool] = lambda: False
    interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)
    clock: Callable[[], float] = time.perf_counter
    snapshot: Snapshot | None = None
    keep: Callable[[Snapshot], None] = lambda snapshot: None
    keep_every: float = 5.0
    prior: Prior | None = None  # for the recipe's dpp
    means: Mapping[Site, Tensor] = field(default_factory=dict)  # E_subject, for the recipe's casr
    attractors: Mapping[str, Tensor] = field(default_factory=dict)  # for the recipe's attractor

    @property
    def start(self) -> Mapping[str, Tensor]:
        """The tensors that learning starts with."""
        return {**self.concept.tensors(), **self.attractors}


def learn(task: LearnTask, on_event: Callable[[Event], None] = lambda event: None) -> Learned:
    """Learn until the recipe's steps are done or an interrupt comes, and return the best so far.

    An interrupt before the first step is raised: there is nothing to keep.

    The same task with the same recipe (steps given) gives the same tensors. Raises LearningDiverged on NaN or
    infinity, ValueError where the concept acts nowhere. Runs outside inference mode whatever the caller is in.
    """
    with torch.inference_mode(False), torch.enable_grad():
        run = _Run(task, on_event)
        try:
            run.plan()
            finished = run.to_the_end()
        except task.interrupts:
            if not run.state.step:
                raise
            finished = False
        return run.learned() if finished else run.stopped()


def rehearsals(task: LearnTask) -> Iterator[Callable[[], object]]:
    """Per stage the forward of a step on one picture, with copies of the tensors: nothing is learned from it."""
    task = replace(task, latents=task.latents.largest)
    for stage in task.recipe.stages:
        recipe = replace(task.recipe, stages=(stage,), batch_size=1, steps=1)
        run = _Run(replace(task, recipe=recipe, snapshot=None), lambda event: None)
        batch = run.draw(torch.Generator().manual_seed(task.seed))
        yield partial(run.training.forward, batch)


class _Run:
    def __init__(self, task: LearnTask, on_event: Callable[[Event], None]) -> None:
        self.task, self.emit, self.recipe = task, on_event, task.recipe
        self.began = self.kept_at = task.clock()
        self.pause = task.keep_every
        self.state = _begun(task)
        self.first = self.state.step
        self.word = PlacedConcept(task.concept).word
        captions = task.latents.captions if self.recipe.captions else ("",) * len(task.latents.train)
        class_word = task.concept.info.class_word
        texts = training_texts(captions, self.recipe.templates, class_word, self.word)
        self.texts = tuple(with_attractors(texts) if task.attractors else texts)
        self.held = held_out_of(task.latents, task.denoiser, self.recipe)
        self.compose()

    # -- the plan

    def plan(self) -> None:
        """Fix the number of steps once, from the seconds where the recipe gives no steps."""
        if self.task.snapshot:
            self.recipe = replace(self.recipe, steps=self.task.snapshot.steps)
        elif not self.recipe.steps:
            self.recipe = replace(self.recipe, steps=self._steps_in_time())
        self.every = self.recipe.check_every(self.held.samples)
        self.emit(Started(self.recipe.steps, len(self.task.latents.held_out)))

    def _steps_in_time(self) -> int:
        """Trial steps on a generator of their own, thrown away, so that they change no result.

        Numbered as in learning, the first left out: what comes every second step is timed in one of two.
        """
        if not self.recipe.seconds:
            raise ValueError("The recipe has neither steps nor seconds; one is needed. Give a budget.")
        times, generator = [], torch.Generator().manual_seed(self.task.seed)
        for number in range(TRIALS):
            began = self.task.clock()
            self.training.backward(self.draw(generator), number, generator)
            times.append(self.task.clock() - began)
        self.state.optimizer.zero_grad()
        left = self.recipe.seconds - (self.task.clock() - self.began)
        steps = left * len(times[1:]) / max(sum(times[1:]), 1e-9)
        checks = self.recipe.checks * self.held.samples * FORWARD_COST / self.recipe.batch_size
        return max(1, int(steps - min(checks, steps * CHECK_SHARE)))

    def enter(self, stage: Stage) -> None:
        """Let exactly the stage's tensors train, under a fresh optimiser; from the best where the last one settled."""
        if self.state.settled(self.recipe.patience):
            # New tensors: an encoder remembers by the old ones what it made of them.
            device = self.task.denoiser.device
            self.state.parameters = {name: one.to(device, copy=True) for name, one in self.state.kept.tensors.items()}
        self.state.began.append(self.state.step)
        self.state.optimizer = fresh_optimizer(self.state.parameters, stage, self.recipe)
        self.compose()

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.state.stage]

    @property
    def taken(self) -> int:
        """Steps of this stage."""
        return self.state.step - self.state.began[-1]

    @property
    def through(self) -> bool:
        """Whether the stage has taken its steps, or the held-out pictures come no closer."""
        planned = self.recipe.stage_steps()[self.state.stage]
        return self.taken >= planned or self.state.settled(self.recipe.patience)

    @property
    def done(self) -> bool:
        last = self.state.stage == len(self.recipe.stages) - 1
        return self.state.step == self.recipe.steps or (last and self.through)

    def compose(self) -> None:
        """A new concept per stage and no oftener: contexts carry its hash, which is taken once and costs a copy."""
        concept = self.task.concept.with_tensors(self.state.parameters)
        # In every row of the text: learned in its own alone, as it is used, it comes less near (benchmarks/trials.md).
        self.composition = (PlacedConcept(concept, sparing=False), *attractors(concept, self.state.parameters))
        frozen = not any(tensor.requires_grad for tensor in concept.embeddings.values())
        self.prompts = Prompts(self.task.prompt_encoder, self.composition, frozen)
        whose = (self.task.denoiser, self.recipe, self.stage, self.composition, self.prompts)
        self.training = TrainingPass(*whose, self.state.parameters, self.task.prior, self.task.means)

    # -- the loop

    def to_the_end(self) -> bool:
        """True when all steps were taken, False when asked to stop."""
        for number, (stage, planned) in enumerate(zip(self.recipe.stages, self.recipe.stage_steps(), strict=True)):
            if number < self.state.stage:
                continue
            if number > self.state.stage:
                self.enter(stage)
            while not self.through:
                if self.task.interrupted():
                    return False
                self.keep_now_and_then()
                self.step(stage.learning_rate * self.recipe.pace(self.taken, planned))
        self.check()
        return True

    def step(self, learning_rate: float) -> None:
        state, optimizer, generator = self.state, self.state.optimizer, self.state.generator()
        loss = self._finite(self.training.backward(self.draw(generator), self.state.step, generator))
        if loss is None:
            raise LearningDiverged(self._likely_cause(), self.learned(finished=False))
        if state.step % self.every == 0:
            self.check()  # here, where this batch has just shown that the state is sound
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
        state.random = generator.get_state()
        state.losses.append(loss)
        self.emit(Step(state.step, self.recipe.steps, state.losses[-1], self.task.clock() - self.began))
        self._preview()

    def draw(self, generator: Generator) -> Batch:
        return draw(self.task.latents, self.recipe, self.texts, generator)

    def _preview(self) -> None:
        step, steps, wanted = self.state.step, self.recipe.steps, self.task.previews
        if step * wanted // steps > (step - 1) * wanted // steps:
            self.emit(Preview(step, self.task.concept.with_tensors(copies(self.state.parameters))))

    # -- keeping the state

    def keep_now_and_then(self) -> None:
        if self.task.clock() - self.kept_at >= self.pause:
            self.keep()

    def keep(self) -> None:
        began = self.task.clock()
        self.task.keep(taken(self.state, self.recipe.steps))
        self.kept_at = self.task.clock()
        self.pause = max(self.task.keep_every, (self.kept_at - began) / SNAPSHOT_SHARE)

    # -- keeping the best

    def check(self) -> None:
        """Keep this state if it is the best on held-out pictures, or if these only judge."""
        state = self.state
        if state.checked:
            return
        if not self.held.samples:
            state.kept = Kept(state.step, math.nan, copies(state.parameters))
            return
        loss = self._held_loss()
        best = all(loss < one.loss for one in state.held)
        if best or not self.chooses:
            state.kept = Kept(state.step, loss, copies(state.parameters))
        state.held.append(Held(state.step, loss, best))
        self.emit(state.held[-1])

    @property
    def chooses(self) -> bool:
        """Whether the held-out pictures choose the state that is kept."""
        return self.recipe.keeps_best and len(self.task.latents.held_out) >= JUDGES

    def _held_loss(self) -> float:
        """The mean over noise levels, each in units of its own start: else the noisiest level decides alone."""
        text = self.recipe.templates[0].replace("{}", f"<{self.word}>")
        with torch.no_grad():
            context = self.prompts.contexts([text])[0]
        args = (self.held, self.task.denoiser, context, self.composition, self.recipe.batch_size)
        losses = held_out_losses(*args)  # (levels,)
        if self.state.baseline is None:
            self.state.baseline = losses.clamp_min(1e-12)
        return float((losses / self.state.baseline).mean())

    def stopped(self) -> Learned:
        """The best so far, after a last look at the state in which it was stopped."""
        self.keep()  # before the look, which learning in one go would not have taken here
        if not self.judged:
            with suppress(*self.task.interrupts):
                self.last_look()
        return self.learned(finished=self.judged and self.done)

    @property
    def judged(self) -> bool:
        return self.state.checked if self.held.samples else self.state.kept.step == self.state.step

    def last_look(self) -> None:
        """Who asks to stop does not wait: where looks are slow, an earlier one decides, or none if none was yet."""
        if not self.held.samples or self.held.samples * self.prediction_seconds <= LAST_LOOK:
            self.check()
        elif not self.state.kept.step and not any(look.step for look in self.state.held):
            self.state.kept = Kept(self.state.step, math.nan, copies(self.state.parameters))

    @property
    def prediction_seconds(self) -> float:
        """What a prediction for one sample takes here, from the steps taken so far."""
        samples = (self.state.step - self.first) * self.recipe.batch_size
        return FORWARD_COST * (self.task.clock() - self.began) / samples if samples else math.inf

    def learned(self, finished: bool = True) -> Learned:
        state, kept = self.state, self.state.kept
        scores = {} if math.isnan(kept.loss) else {"held_out": kept.loss}
        info = replace(
            self.task.concept.info,
            recipe=self.recipe.as_header(),
            data_hash=self.task.latents.data_hash,
            seed=self.task.seed,
            steps=kept.step,
            scores={**self.task.concept.info.scores, **scores},
        )
        concept = replace(self.task.concept.with_tensors(kept.tensors), info=info)
        losses, held, steps = tuple(state.losses), tuple(state.held), self.recipe.steps
        early = ended_early(state.began, len(losses), self.recipe.stage_steps(), finished)
        until, keeps_best = len(losses) if finished else steps, self.recipe.keeps_best
        sentence = told(losses, held, until, finished, kept.step, keeps_best) + early
        speed = self.prediction_seconds
        return Learned(concept, losses, held, kept.step, steps, finished, sentence, self.first, speed)

    # -- divergence

    def _finite(self, loss: Tensor) -> float | None:
        """The loss, None where it or a gradient is not finite. Here the loop waits for the device, once a step.

        Not read a step late: a check or a snapshot in between would keep tensors that the optimiser moved by NaN.
        """
        grads = [tensor.grad for tensor in self.state.parameters.values() if tensor.grad is not None]
        sizes = [grad.abs().max() for grad in grads]
        value, *largest = torch.stack([loss, *sizes]).tolist()
        return value if all(map(math.isfinite, (value, *largest))) else None

    def _likely_cause(self) -> str:
        start, rate = self.task.start, self.recipe.stages[0].learning_rate * self.recipe.stride
        grown = max(
            float(tensor.detach().abs().max()) / max(float(start[name].abs().max()), 1e-6)
            for name, tensor in self.state.parameters.items()
            if start[name].any()  # low-rank layers start with a B of zeros
        )
        cause = (
            f"the concept has grown {grown:.0f} times, so the learning rate {rate:g} is too high: set {rate / 3:.1g}"
            if not grown < GROWN
            else "the model itself overflowed, as fp16 does: start ComfyUI with --bf16-unet or --fp32-unet"
        )
        return (
            f"Learning met NaN or infinity at step {self.state.step + 1} of {self.recipe.steps}. Most likely {cause}."
        )


def _begun(task: LearnTask) -> LearningState:
    if task.snapshot:
        return restored(task.snapshot, task.start, task.recipe, task.denoiser.device)
    return starting_state(task.start, task.recipe, task.seed, task.denoiser.device)
