"""Learning on ComfyUI's own classes: the loop of tests/pure/test_learner.py over the real MODEL and CLIP."""

from dataclasses import replace

import comfy.model_management as host
import pytest
import torch
from concept_loom.personalization.attractor import Contrast, attractors, with_attractor, with_attractors
from concept_loom.personalization.augment import TrainingLatents
from concept_loom.personalization.comfyui.session import Session, training_session
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.learned import Event, Learned, Step
from concept_loom.personalization.learner import LearnTask, learn
from concept_loom.personalization.methods import Beginning, task_of
from concept_loom.personalization.prior import Prior, tokens_alone
from concept_loom.personalization.recipe import Recipe, Stage

from . import tiny

QUICK = Recipe("quick", (Stage(("context_rows.",), 1e-1),), steps=12, batch_size=4, templates=("a photo of {}", "{}"))
# Random weights say little at the ends of the schedule: the middle of it, in batches that are not all noise.
WORD = replace(
    QUICK,
    method="textual inversion",
    stages=(Stage(("embedding.",), 1e-2),),
    steps=16,
    batch_size=8,
    sigma_range=(0.3, 0.7),
    checks=4,
)
LAYERWISE = replace(
    QUICK,
    method="layerwise",
    stages=(Stage(("context_rows.", "image_tokens."), 1e-1),),
    image_tokens=1,
    dpp=1e-2,
    casr=5e-4,
    class_pictures=2,
)
NESTED = replace(WORD, method="nested", stages=(Stage(("nested_values.",), 1e-1),), bank=4, steps=40)
FAMILIES = ("SD 1.5", "SD 2", "SDXL")


def latents(pictures: int = 4, held_out: int = 1) -> TrainingLatents:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 4, 8, 8, generator=generator)
    every = shared + 0.2 * torch.randn(pictures + held_out, 4, 8, 8, generator=generator)
    masks = torch.ones(pictures + held_out, 1, 8, 8)
    return TrainingLatents(
        every[:pictures], masks[:pictures], ("",) * pictures, every[pictures:], masks[pictures:], data_hash="test"
    )


def task(session: Session, recipe: Recipe, **changes: object) -> LearnTask:
    words = ("mug", "mug", "subject")
    given = {"denoiser": session.denoiser, "latents": latents()}
    beginning = Beginning(session.encoder, session.denoiser.base, recipe, *words, **given)
    return replace(task_of(beginning, seed=0), **changes)


def run(family: str, recipe: Recipe, **changes: object) -> Learned:
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        return learn(task(session, recipe, **changes))


@pytest.mark.parametrize("recipe", [QUICK, WORD, LAYERWISE, NESTED], ids=lambda recipe: recipe.method)
@pytest.mark.parametrize("family", FAMILIES)
def test_learning_brings_held_out_latents_closer_and_changes_no_weight(family: str, recipe: Recipe) -> None:
    networks = (tiny.model(family).model, tiny.clip(family).cond_stage_model)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    learned = run(family, recipe)
    assert learned.best_step > 0 and learned.concept.info.scores["held_out"] < 0.99
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_quick_concept_changes_no_prediction_of_its_first_caption(family: str) -> None:
    with training_session(tiny.model(family), tiny.clip(family)) as session, torch.no_grad():
        composition = (PlacedConcept(task(session, QUICK).concept),)
        context = session.encoder.encode("a photo of <mug>", composition)
        noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1)
        acting = session.denoiser.predict(noised, sigma, [context], composition)
        assert torch.equal(acting, session.denoiser.predict(noised, sigma, [context]))


@pytest.mark.parametrize("recipe", [QUICK, LAYERWISE], ids=lambda recipe: recipe.method)
def test_the_same_seed_gives_the_same_tensors(recipe: Recipe) -> None:
    assert run("SD 1.5", recipe, seed=3).concept.hash == run("SD 1.5", recipe, seed=3).concept.hash


def test_image_tokens_start_as_the_pictures_mean_and_prior_and_regularisation_hold_them_back() -> None:
    with training_session(tiny.model(), tiny.clip()) as session:
        begun = task(session, LAYERWISE)
        tokens = begun.concept.parts[1].rows
        assert set(tokens) == set(begun.means) == {shape.site for shape in session.denoiser.base.sites}
        assert all(torch.equal(rows[0], begun.means[site]) for site, rows in tokens.items())
        free = learn(replace(begun, recipe=replace(LAYERWISE, dpp=0.0, casr=0.0))).concept.parts[1].rows
        held = learn(replace(begun, recipe=replace(LAYERWISE, dpp=0.0, casr=1e3))).concept.parts[1].rows
        assert sum((held[site] - tokens[site]).norm() for site in tokens) < 0.5 * sum(
            (free[site] - tokens[site]).norm() for site in tokens
        )
        assert begun.prior is not None and begun.prior.pictures.shape == (2, 4, 8, 8)


def test_pictures_of_the_class_are_made_once(tmp_path) -> None:
    with training_session(tiny.model(), tiny.clip()) as session:
        made, calls = [], session.denoiser.predict
        session.denoiser.predict = lambda *args, **named: made.append(1) or calls(*args, **named)
        words = (session.denoiser, session.encoder, "mug", 2, (4, 8, 8), tmp_path)
        first, count = Prior.of(*words), len(made)
        again = Prior.of(*words)
        assert count and len(made) == count and torch.equal(first.pictures, again.pictures)
        (file,) = tmp_path.iterdir()
        file.write_bytes(b"damaged")
        assert torch.equal(Prior.of(*words).pictures, first.pictures)


def test_without_rows_the_word_reads_as_its_class_and_the_tokens_still_act() -> None:
    """Prior preservation trains image tokens alone: `a photo of a [Class]` with p_I in it."""
    with training_session(tiny.model(), tiny.clip()) as session, torch.no_grad():
        begun = task(session, LAYERWISE)
        composition = (PlacedConcept(tokens_alone(begun.concept)),)
        alone = session.encoder.encode("a photo of a <mug>", composition)
        assert torch.equal(alone.tensor, session.encoder.encode("a photo of a mug").tensor)
        noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1)
        acting = session.denoiser.predict(noised, sigma, [alone], composition)
        assert not torch.equal(acting, session.denoiser.predict(noised, sigma, [alone]))


def test_learning_works_inside_inference_mode_as_nodes_run() -> None:
    with torch.inference_mode():
        assert run("SD 1.5", QUICK).best_step > 0


def test_cancelling_in_comfyui_keeps_the_best_so_far() -> None:
    def cancel(event: Event) -> None:
        if isinstance(event, Step) and event.step == 5:
            host.interrupt_current_processing()

    with training_session(tiny.model(), tiny.clip()) as session:
        learned = learn(task(session, QUICK, interrupts=(host.InterruptProcessingException,)), cancel)
    assert not learned.finished and len(learned.losses) == 5
    assert learned.best_step > 0 and learned.concept.info.scores["held_out"] < 1


@pytest.mark.parametrize("recipe", [QUICK, WORD, NESTED], ids=lambda recipe: recipe.method)
def test_attractors_learn_beside_the_concept_and_stay_behind(recipe: Recipe) -> None:
    recipe = replace(recipe, attractor=True, steps=6)
    with training_session(tiny.model(), tiny.clip()) as session:
        begun = task(session, recipe)
        assert list(begun.attractors) == [f"attractor.{number}" for number in range(4)]
        said = begun.concept.info.phrase.replace("[V]", "mug")
        plain = session.encoder.encode(f"a photo of {said}, background").tensor[0]
        assert any(torch.allclose(begun.attractors["attractor.0"][0], row, atol=1e-4) for row in plain)
        snapshots = []
        learned = learn(replace(begun, keep=snapshots.append, keep_every=0.0))
        assert set(learned.concept.tensors()) == set(begun.concept.tensors())
        moved = snapshots[-1].tensors
        assert all((moved[f"parameter.{name}"] - row).abs().max() > 0 for name, row in begun.attractors.items())
        again = learn(replace(begun, snapshot=snapshots[1]))
        assert again.concept.hash == learned.concept.hash and again.began > 0


def test_an_attractor_is_in_most_captions_of_its_own_picture_only() -> None:
    texts = with_attractors([("a <mug>",), ("a <mug>",), ("the <mug>",), ("the <mug>",)], views=2)
    assert [sum("background-0" in text for text in one) for one in texts] == [17, 17, 0, 0]
    assert [sum("background-1" in text for text in one) for one in texts] == [0, 0, 17, 17]
    assert all(len(one) == 20 for one in texts)


def test_the_contrast_parts_the_subject_from_its_surroundings() -> None:
    recipe = replace(QUICK, attractor=True, contrast=1.0)
    with training_session(tiny.model(), tiny.clip()) as session:
        begun = task(session, recipe)
        composition = (PlacedConcept(begun.concept), *attractors(begun.concept, begun.attractors))
        texts = [with_attractor("a photo of <mug>", number) for number in (0, 1)]
        contexts = [session.encoder.encode(text, composition) for text in texts]
        contrast = Contrast("mug", contexts, torch.device("cpu"))
        assert contrast.pictures.tolist() == [0, 1] and (contrast.columns[:, 0] < contrast.columns[:, 1]).all()
        x, sigma = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(2)
        session.denoiser.predict(x, sigma, contexts, composition, contrast.observer())
        assert 0 < float(contrast.loss()) < 10
