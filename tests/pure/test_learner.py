"""Learning on a toy backbone: what it does, what it leaves alone, and how it stops."""

import re
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.batch import draw, training_texts
from concept_loom.personalization.composition import Composition, PlacedConcept
from concept_loom.personalization.concept import Concept
from concept_loom.personalization.denoiser import Context
from concept_loom.personalization.learned import (
    Event,
    Held,
    LearningDiverged,
    Preview,
    Started,
    Step,
    ended_early,
    told,
)
from concept_loom.personalization.learner import LearnTask, learn
from concept_loom.personalization.methods import Beginning, start
from concept_loom.personalization.prior import Prior
from concept_loom.personalization.recipe import Recipe, Stage

from .toy import BASE, ToyDenoiser, ToyPromptEncoder, toy_latents

ROWS = Recipe("quick", (Stage(("context_rows.",), 3e-2),), steps=40, batch_size=8)
WORD = Recipe("textual inversion", (Stage(("embedding.",), 3e-2),), steps=40, batch_size=8)


class Interrupt(BaseException):
    """As ComfyUI raises it from inside a model."""


def task(recipe: Recipe = ROWS, **changes: object) -> LearnTask:
    encoder = ToyPromptEncoder()
    concept = start(Beginning(encoder, BASE, recipe, "mug", "mug", "subject"))
    return replace(LearnTask(ToyDenoiser(), encoder, concept, toy_latents(), recipe), **changes)


@pytest.mark.parametrize("recipe", [ROWS, WORD], ids=lambda recipe: recipe.method)
def test_learning_brings_held_out_pictures_closer(recipe: Recipe) -> None:
    learned = learn(task(recipe))
    assert learned.held[0].loss == pytest.approx(1)
    assert min(held.loss for held in learned.held) < 0.97
    assert learned.concept.info.scores["held_out"] == min(held.loss for held in learned.held)
    assert learned.finished and learned.concept.info.steps == learned.best_step > 0


def test_the_same_seed_gives_the_same_tensors_and_another_seed_others() -> None:
    one, again, other = (learn(task(seed=seed)).concept for seed in (1, 1, 2))
    assert one.hash == again.hash
    assert one.hash != other.hash


def test_the_loop_is_adamw_on_the_denoising_loss_and_nothing_else() -> None:
    recipe = replace(ROWS, steps=6, schedule="cosine", warmup=0.3, weight_decay=0.1, min_snr=5.0)
    one = task(recipe, latents=toy_latents(held_out=0), seed=4)
    tensors = {name: tensor.clone() for name, tensor in one.concept.tensors().items()}
    rows = [tensor.requires_grad_() for name, tensor in tensors.items() if name.startswith("context_rows.")]
    optimizer, generator = torch.optim.AdamW(rows, weight_decay=0.1), torch.Generator().manual_seed(4)
    composition = (PlacedConcept(one.concept.with_tensors(tensors)),)
    texts = tuple(training_texts(one.latents.captions, recipe.templates, "mug", "mug"))
    for step in range(6):
        batch = draw(one.latents, recipe, texts, generator)
        sigma = one.denoiser.sigma_at(batch.percent)
        contexts = [one.prompt_encoder.encode(text, composition) for text in batch.texts]
        noised = one.denoiser.add_noise(batch.x0, sigma, batch.noise)
        denoised = one.denoiser.predict(noised, sigma, contexts, composition)
        optimizer.param_groups[0]["lr"] = 3e-2 * recipe.pace(step, 6)
        optimizer.zero_grad()
        ((denoised - batch.x0).square().mean((1, 2, 3)) * (sigma**-2).clamp(max=5)).mean().backward()
        optimizer.step()
    for name, tensor in learn(one).concept.tensors().items():
        torch.testing.assert_close(tensor, tensors[name].detach(), rtol=1e-4, atol=1e-5)


def test_a_budget_in_seconds_records_its_steps_and_they_repeat_it() -> None:
    ticks = iter(range(100_000))
    timed = learn(task(replace(ROWS, steps=0, seconds=60.0), clock=lambda: float(next(ticks))))
    assert timed.steps > 3 and timed.concept.info.recipe["steps"] == timed.steps
    assert learn(task(replace(ROWS, steps=timed.steps))).concept.hash == timed.concept.hash


def test_the_base_stays_bit_identical_and_without_gradients() -> None:
    one = task()
    before = {name: value.clone() for name, value in one.denoiser.net.state_dict().items()}
    learn(one)
    assert all(torch.equal(value, before[name]) for name, value in one.denoiser.net.state_dict().items())
    assert all(parameter.grad is None for parameter in one.denoiser.net.parameters())


@pytest.mark.parametrize(("recipe", "moves"), [(ROWS, "context_rows."), (WORD, "embedding.")], ids=["rows", "word"])
def test_only_the_tensors_of_the_stage_move_and_the_given_concept_stays(recipe: Recipe, moves: str) -> None:
    one = task(recipe)
    before = {name: tensor.clone() for name, tensor in one.concept.tensors().items()}
    after = learn(one).concept.tensors()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith(moves)
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in one.concept.tensors().items())
    assert not any(tensor.requires_grad for tensor in after.values())


def test_stages_train_one_after_the_other() -> None:
    stages = (Stage(("embedding.",), 1e-2, share=1), Stage(("context_rows.",), 1e-2, share=3))
    seen = {}
    one = task(replace(ROWS, stages=stages), previews=4, latents=toy_latents(held_out=0))
    learn(one, lambda event: seen.update({event.step: event.concept}) if isinstance(event, Preview) else None)
    first, last, begun = seen[10].tensors(), seen[40].tensors(), one.concept.tensors()
    assert torch.equal(first["context_rows.middle.0.0"], begun["context_rows.middle.0.0"])
    assert not torch.equal(first["embedding.l"], begun["embedding.l"])
    assert torch.equal(first["embedding.l"], last["embedding.l"])
    assert not torch.equal(last["context_rows.middle.0.0"], begun["context_rows.middle.0.0"])


def test_texts_are_encoded_once_where_no_embedding_trains() -> None:
    rows, word = task(ROWS), task(WORD)
    learn(rows)
    learn(word)
    assert rows.prompt_encoder.encoded <= 1 + len(ROWS.templates)
    assert word.prompt_encoder.encoded > WORD.steps


def test_asking_to_stop_returns_the_best_so_far() -> None:
    steps = []
    one = task(interrupted=lambda: len(steps) >= 15)
    learned = learn(one, lambda event: steps.append(event.step) if isinstance(event, Step) else None)
    assert len(learned.losses) == 15 and not learned.finished
    assert learned.held[-1].step == 15
    assert learned.concept.info.scores["held_out"] < 1
    assert learned.concept.hash != one.concept.hash
    assert "15 of 40" in learned.sentence


@pytest.mark.parametrize("held_out", [0, 2])
def test_an_interrupt_raised_inside_the_model_returns_the_best_so_far(held_out: int) -> None:
    denoiser = ToyDenoiser(breaks=20, raises=Interrupt)
    learned = learn(task(denoiser=denoiser, latents=toy_latents(held_out=held_out), interrupts=(Interrupt,)))
    assert 0 < len(learned.losses) < 20 and 0 < learned.best_step <= len(learned.losses)
    assert not learned.finished


@pytest.mark.parametrize("recipe", [ROWS, replace(ROWS, steps=0, seconds=60.0)], ids=["first step", "trial steps"])
def test_an_interrupt_before_anything_was_learned_is_raised(recipe: Recipe) -> None:
    with pytest.raises(Interrupt):
        learn(task(recipe, denoiser=ToyDenoiser(breaks=1, raises=Interrupt), interrupts=(Interrupt,)))


def test_an_interrupt_inside_a_held_out_check_returns_the_best_so_far() -> None:
    checks = []

    def interrupt(event: object) -> None:
        checks.extend([event] if isinstance(event, Held) else [])
        if len(checks) == 4:
            raise Interrupt

    learned = learn(task(interrupts=(Interrupt,)), interrupt)
    assert not learned.finished and learned.held == tuple(checks)
    assert learned.best_step == min(checks, key=lambda held: held.loss).step


@pytest.mark.parametrize("kind", [Step, Preview, Held])
@pytest.mark.parametrize("held_out", [0, 2])
def test_an_interrupt_after_the_last_step_leaves_a_finished_run(
    kind: type[Step | Preview | Held], held_out: int
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, kind) and not isinstance(event, Started) and event.step == ROWS.steps:
            raise Interrupt

    one = task(previews=4, interrupts=(Interrupt,), latents=toy_latents(held_out=held_out))
    interrupted = learn(one, interrupt)
    assert interrupted.finished and interrupted.concept.hash == learn(one).concept.hash


@pytest.mark.parametrize(("held_out", "step", "best"), [(2, 3, 3), (2, 15, 12), (0, 15, 15)])
def test_who_stops_a_slow_model_does_not_wait_for_another_look(held_out: int, step: int, best: int) -> None:
    ticks = iter(range(100_000))
    taken = []
    one = task(
        latents=toy_latents(held_out=held_out),
        clock=lambda: float(next(ticks)),
        interrupted=lambda: len(taken) >= step,
    )
    learned = learn(one, lambda event: taken.append(event) if isinstance(event, Step) else None)
    assert len(learned.losses) == step and learned.best_step == best
    assert all(held.step != step for held in learned.held)


def test_who_stops_a_slow_model_keeps_the_start_where_looks_found_nothing_better() -> None:
    ticks, taken = iter(range(100_000)), []
    one = task(
        replace(ROWS, stages=(Stage(("context_rows.",), 300.0),)),
        clock=lambda: float(next(ticks)),
        interrupted=lambda: len(taken) >= 15,
    )
    learned = learn(one, lambda event: taken.append(event) if isinstance(event, Step) else None)
    assert learned.best_step == 0 and [look.step for look in learned.held if look.best] == [0]


def test_an_exception_that_is_no_interrupt_is_not_swallowed() -> None:
    with pytest.raises(Interrupt):
        learn(task(denoiser=ToyDenoiser(breaks=20, raises=Interrupt)))


@pytest.mark.parametrize("held_out", [0, 2])
def test_nan_stops_with_the_step_and_the_last_good_state(held_out: int) -> None:
    with pytest.raises(LearningDiverged, match="at step .* of 40.*fp16") as diverged:
        learn(task(denoiser=ToyDenoiser(breaks=20), latents=toy_latents(held_out=held_out)))
    good = diverged.value.last_good
    assert not good.finished and good.best_step > 0
    assert all(tensor.isfinite().all() for tensor in good.concept.tensors().values())


def test_a_learning_rate_that_explodes_is_named_as_the_cause() -> None:
    wild = replace(ROWS, stages=(Stage(("context_rows.",), 1e30),))
    with pytest.raises(LearningDiverged, match="learning rate 1e\\+30 is too high: set 3e\\+29"):
        learn(task(wild))


def test_a_concept_that_acts_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="acts at no site"):
        learn(replace(task(), recipe=replace(ROWS, templates=("a photo of a mug",))))


def test_overfitting_keeps_an_earlier_step_and_says_so() -> None:
    greedy = replace(ROWS, steps=300, stages=(Stage(("context_rows.",), 1e-1),), checks=60)
    learned = learn(task(greedy, latents=toy_latents(train=1, held_out=2)))
    assert 0 < learned.best_step < 300
    assert f"step {learned.best_step} was the best and is kept" in learned.sentence


def test_one_held_out_picture_judges_but_does_not_choose() -> None:
    greedy = replace(ROWS, steps=300, stages=(Stage(("context_rows.",), 1e-1),), checks=60)
    learned = learn(task(greedy, latents=toy_latents(train=1, held_out=1)))
    best = min(learned.held, key=lambda one: one.loss)
    assert learned.best_step == 300 > best.step
    assert learned.concept.info.scores["held_out"] == learned.held[-1].loss
    assert f"came nearest at step {best.step}" in learned.sentence


def test_where_they_do_not_choose_held_out_pictures_judge_and_no_stage_ends_early() -> None:
    greedy = replace(ROWS, steps=300, stages=(Stage(("context_rows.",), 1e-1),), checks=60, keeps_best=False)
    learned = learn(task(replace(greedy, patience=1), latents=toy_latents(train=1, held_out=2)))
    best = min(learned.held, key=lambda one: one.loss)
    assert learned.best_step == len(learned.losses) == 300 > best.step
    assert learned.concept.info.scores["held_out"] == learned.held[-1].loss
    assert f"What was held out came nearest at step {best.step}, but it only judges" in learned.sentence


def test_without_held_out_pictures_the_last_state_is_kept() -> None:
    learned = learn(task(latents=toy_latents(held_out=0)))
    assert learned.best_step == 40 and learned.held == () and "cannot be judged" in learned.sentence


def test_learning_works_inside_inference_mode() -> None:
    one = task()  # the host sees to the model; concept and latents may come from a node before
    with torch.inference_mode():
        concept = one.concept.with_tensors({name: t.clone() for name, t in one.concept.tensors().items()})
        learned = learn(replace(one, concept=concept, latents=toy_latents()))
    assert learned.best_step > 0


def test_held_out_checks_cost_at_most_a_fifth() -> None:
    one = task(replace(ROWS, batch_size=1, checks=1000))
    learned = learn(one)
    assert len(learned.held) * 8 * 0.5 <= 0.2 * 40 + 8  # 8 samples a check, half the cost of a trained one


HASTY = replace(
    ROWS,
    stages=(Stage(("embedding.",), 10.0, share=2), Stage(("context_rows.",), 3e-2, share=1)),
    steps=60,
    checks=30,
    patience=3,
)


def test_a_stage_ends_when_the_held_out_pictures_come_no_closer_and_the_next_starts_from_the_best() -> None:
    seen = {}
    one = task(HASTY, previews=60)
    learned = learn(one, lambda event: seen.update({event.step: event.concept}) if isinstance(event, Preview) else None)
    first = len(learned.losses) - 20
    assert 0 < first < 40 and learned.finished and learned.steps == 60
    early = f"Ended early, as the held-out pictures came no closer: stage 1 after {first} of 40 steps."
    assert learned.sentence.endswith(early)
    begun, last = one.concept.tensors(), seen[first + 1].tensors()
    best = next((held.step for held in reversed(learned.held[: first // 2]) if held.best), 0)
    kept = seen[best].tensors() if best else begun
    assert torch.equal(last["embedding.l"], kept["embedding.l"])
    assert not torch.equal(last["context_rows.middle.0.0"], begun["context_rows.middle.0.0"])


class RememberingEncoder(ToyPromptEncoder):
    """As ComfyUI's: what a frozen embedding made is kept under its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple, Context] = {}

    def encode(self, text: str, composition: Composition = ()) -> Context:
        tensors = [one for placed in composition for one in placed.concept.embeddings.values()]
        if any(one.requires_grad for one in tensors):
            return super().encode(text, composition)
        key = (text, *map(id, tensors))
        if key not in self.kept:
            self.kept[key] = super().encode(text, composition)
        return self.kept[key]


def test_no_stage_learns_under_what_was_encoded_of_an_embedding_that_is_gone() -> None:
    """Stage 1 ends worse than it began, stage 2 too: stage 3 starts from the start."""
    wild = Stage(("context_rows.",), 30.0, share=12)
    stages = (Stage(("embedding.",), 1e3, share=2), wild, Stage(("context_rows.",), 3e-2, share=4))
    recipe = replace(HASTY, stages=stages, steps=60, checks=30)
    fresh, remembered = (learn(task(recipe, prompt_encoder=one)) for one in (ToyPromptEncoder(), RememberingEncoder()))
    assert "stage 2 after" in fresh.sentence
    assert remembered.losses == fresh.losses and remembered.concept.hash == fresh.concept.hash


def test_without_patience_or_held_out_pictures_every_step_is_taken() -> None:
    for one in (task(replace(HASTY, patience=0)), task(HASTY, latents=toy_latents(held_out=0))):
        learned = learn(one)
        assert len(learned.losses) == 60 and "Ended early" not in learned.sentence


@pytest.mark.parametrize(
    ("began", "taken", "finished", "said"),
    [
        ([0], 10, True, ""),
        ([0], 4, True, "stage 1 after 4 of 10 steps."),
        ([0], 4, False, ""),
        ([0, 7, 27], 30, True, "stage 1 after 7 of 10 steps, stage 3 after 3 of 30 steps."),
        ([0, 7, 27], 30, False, "stage 1 after 7 of 10 steps."),
    ],
)
def test_only_stages_that_ended_of_themselves_are_told(began: list[int], taken: int, finished: bool, said: str) -> None:
    planned = (10, 20, 30) if len(began) > 1 else (10,)
    sentence = ended_early(began, taken, planned, finished)
    assert sentence.endswith(said) and bool(sentence) == bool(said)


def test_captions_give_way_to_the_recipes_one_prompt() -> None:
    one = task(replace(ROWS, captions=False, templates=("a photo of a {}",), steps=3))
    learn(replace(one, latents=replace(one.latents, captions=("on a beach",) * 5)))
    assert one.prompt_encoder.encoded <= 3  # the start, and one text


def curve(*losses: float) -> list[Held]:
    return [Held(10 * i, loss, False) for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("held", "later", "kept", "said"),
    [
        (
            curve(1, 0.9, 0.95),
            0.1,
            10,
            "step 10 was the best and is kept, 10.0% closer.*only copied the training pictures",
        ),
        (curve(1, 0.9, 0.95), 0.9, 10, "step 10 was the best and is kept, 10.0% closer.*brought nothing more"),
        (curve(1, 0.9, 0.8), 0.1, 20, "Learned in 20 steps; the last is the best, 20.0% closer"),
        (curve(1, 1.1, 1.2), 0.1, 0, "Nothing useful was learned"),
        (curve(1), 0.1, 7, "no time to judge"),
        ([], 0.1, 20, "no picture was held out"),
    ],
)
def test_the_sentence_tells_copying_from_learning(held: list[Held], later: float, kept: int, said: str) -> None:
    assert re.search(said, told([0.5] * 10 + [later] * 10, held, 20, True, kept, True))


class NotedPrior(Prior):
    """Notes for how many pictures of the class it is asked, and how heavily they weigh."""

    def __init__(self) -> None:
        self.__dict__["asked"] = []

    def loss(self, concept: Concept, samples: int, generator: torch.Generator) -> torch.Tensor:
        leaf = torch.zeros((), requires_grad=True)
        leaf.register_hook(lambda weight: self.__dict__["asked"].append((samples, weight.item())))
        return leaf


@pytest.mark.parametrize(
    ("batch_size", "asked"),
    [(80, [(2, 0.5)] * 40), (40, [(1, 0.5)] * 40), (4, [(1, 5.0)] * 4), (1, [(1, 20.0)])],
)
def test_prior_preservation_takes_one_picture_in_forty_also_of_small_batches(batch_size: int, asked: list) -> None:
    prior = NotedPrior()
    learn(task(replace(ROWS, steps=40, batch_size=batch_size, dpp=0.5), prior=prior))
    assert prior.__dict__["asked"] == asked
