"""Learning on ComfyUI's own classes: the loop of tests/pure/test_learner.py over the real MODEL and CLIP."""

import math
from dataclasses import replace

import comfy.model_management as host
import pytest
import torch
from concept_loom.personalization import training_pass
from concept_loom.personalization.attractor import Contrast, attractors, with_attractor, with_attractors
from concept_loom.personalization.calibration import Calibration
from concept_loom.personalization.comfyui.session import Session, training_session
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.concept import Concept
from concept_loom.personalization.latents import TrainingLatents
from concept_loom.personalization.learned import Event, Learned, Preview, Step
from concept_loom.personalization.learner import LearnTask, learn
from concept_loom.personalization.methods import Beginning, task_of
from concept_loom.personalization.parts import ImageTokens
from concept_loom.personalization.prior import Prior, tokens_alone
from concept_loom.personalization.recipe import Recipe, Stage, recipe_for

from . import tiny
from .neighbours import sampling

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
STAGED = replace(
    WORD,
    method="staged",
    stages=(
        Stage(("embedding.",), 1e-2, share=4, w_mean=0.1),
        Stage(("low_rank.*.attn2.",), 1e-2, share=6, w_mean=2.0, w_var=5.0),
        Stage(("low_rank.",), 1e-2, share=10, w_mean=2.0, w_var=5.0),
    ),
    steps=20,
    rank=4,
    templates=("a photo of a {}",),
    captions=False,
)
FAMILIES = ("SD 1.5", "SD 2", "SDXL")


def latents(pictures: int = 4, held_out: int = 2) -> TrainingLatents:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 4, 8, 8, generator=generator)
    every = shared + 0.2 * torch.randn(pictures + held_out, 4, 8, 8, generator=generator)
    every, masks = tuple(every), tuple(torch.ones(pictures + held_out, 1, 8, 8))
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


@pytest.mark.parametrize("recipe", [QUICK, WORD, LAYERWISE, NESTED, STAGED], ids=lambda recipe: recipe.method)
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


@pytest.mark.parametrize("recipe", [QUICK, LAYERWISE, STAGED], ids=lambda recipe: recipe.method)
def test_the_same_seed_gives_the_same_tensors(recipe: Recipe) -> None:
    assert run("SD 1.5", recipe, seed=3).concept.hash == run("SD 1.5", recipe, seed=3).concept.hash


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stages_of_staged_train_the_word_then_text_layers_then_all_layers(family: str) -> None:
    states = [{}]
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        begun = task(session, STAGED, previews=20, latents=latents(held_out=0))
        noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1)
        with torch.no_grad():
            composition = (PlacedConcept(begun.concept),)
            context = session.encoder.encode("a photo of a <mug>", composition)
            fresh = session.denoiser.predict(noised, sigma, [context], composition)
            assert torch.equal(fresh, session.denoiser.predict(noised, sigma, [context]))
        learn(begun, lambda event: states.append(event.concept.tensors()) if isinstance(event, Preview) else None)
    states[0] = begun.concept.tensors()
    moved = [
        {name for name in states[0] if not torch.equal(states[one][name], states[other][name])}
        for one, other in ((0, 4), (4, 10), (10, 20))
    ]
    layers = {name for name in states[0] if name.startswith("low_rank.")}
    assert moved == [set(states[0]) - layers, {name for name in layers if ".attn2." in name}, layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_regulariser_brings_the_word_and_its_category_together(family: str) -> None:
    stage = Stage(("embedding.",), 3e-2)
    recipe = replace(STAGED, stages=(stage,), steps=12)
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        free = learn(task(session, recipe, latents=latents(held_out=0))).concept
        heavy = replace(recipe, stages=(replace(stage, w_mean=1e6, w_var=1e6),))
        held = learn(task(session, heavy, latents=latents(held_out=0))).concept
        assert distance(session, held) < 0.5 * distance(session, free)


def distance(session: Session, concept: Concept) -> float:
    composition = (PlacedConcept(concept),)
    with torch.no_grad():
        context = session.encoder.encode("a photo of a <mug>", composition)
        watching = Calibration([context] * 4, "mug", 1, session.denoiser.device)
        noised = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        sigma = session.denoiser.sigma_at(torch.tensor([0.3, 0.4, 0.5, 0.6]))
        session.denoiser.predict(sigma.view(-1, 1, 1, 1) * noised, sigma, [context] * 4, composition, watching.observer)
    return float(watching.loss(1.0, 1.0))


def test_staged_learns_the_same_with_gradient_checkpointing() -> None:
    ends = []
    for checkpoint in (False, True):
        with training_session(tiny.model(), tiny.clip(), checkpoint) as session:
            heavy = tuple(replace(stage, w_mean=1e4, w_var=1e4) for stage in STAGED.stages)  # or nobody would miss it
            ends.append(learn(task(session, replace(STAGED, stages=heavy, steps=6))).concept.tensors())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor)


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


def test_pictures_of_the_class_made_with_another_prediction_are_not_taken(tmp_path) -> None:
    """The two share their weights and sigmas."""
    for model in (tiny.model(), sampling("v_prediction")(tiny.model())):
        with training_session(model, tiny.clip()) as session:
            Prior.of(session.denoiser, session.encoder, "mug", 1, (4, 8, 8), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


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


@pytest.mark.parametrize("class_word", ["mug", "stuffed toy"])
def test_prior_preservation_compares_predictions_that_differ_by_the_tokens_alone(class_word: str) -> None:
    with training_session(tiny.model(), tiny.clip()) as session:
        own, made = session.denoiser.predict, []
        prior = Prior.of(session.denoiser, session.encoder, class_word, 1, (4, 8, 8))
        session.denoiser.predict = lambda *args: made.append(own(*args)) or made[-1]
        for concept in (tiny.concept(class_word=class_word), tiny.guest(ImageTokens, tiny.concept())):
            prior.loss(concept, 1, torch.Generator().manual_seed(2))
        (without, frozen), (acting, before) = made[:2], made[2:]
    assert torch.equal(without, frozen) and not torch.equal(acting, before)


def test_further_image_tokens_part() -> None:
    with training_session(tiny.model(), tiny.clip()) as session:
        begun = task(session, replace(LAYERWISE, image_tokens=3))
        learned = learn(begun).concept.parts[1].rows
        for site, rows in begun.concept.parts[1].rows.items():
            assert rows.shape[0] == 3 and torch.equal(rows[0], begun.means[site])
            assert torch.pdist(learned[site]).min() > 0


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
    texts = with_attractors([("a <mug>",), ("the <mug>",)])
    assert [sum("background-0" in text for text in one) for one in texts] == [17, 0]
    assert [sum("background-1" in text for text in one) for one in texts] == [0, 17]
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
        session.denoiser.predict(x, sigma, contexts, composition, contrast.observer)
        assert 0 < float(contrast.loss()) < 10


def split_task(session: Session, mask: torch.Tensor, **changes: object) -> LearnTask:
    recipe = replace(QUICK, attractor=True, mask_split=True, contrast=0.0, steps=4, **changes)
    return task(session, recipe, latents=replace(latents(held_out=0), masks=tuple(mask.expand(4, 1, 8, 8))))


def test_with_a_mask_the_outside_is_asked_of_the_attractors_alone() -> None:
    """A mask that leaves everything out: nothing is asked of the word."""
    with training_session(tiny.model(), tiny.clip()) as session:
        begun, snapshots = split_task(session, torch.zeros(1, 1, 8, 8)), []
        learned = learn(replace(begun, keep=snapshots.append, keep_every=0.0)).concept
        assert learned.hash == begun.concept.hash
        moved = snapshots[-1].tensors
        assert all((moved[f"parameter.{name}"] - row).abs().max() > 0 for name, row in begun.attractors.items())
        together = split_task(session, torch.zeros(1, 1, 8, 8), outside_mask=0.1)
        assert learn(replace(together, recipe=replace(together.recipe, mask_split=False))).concept.hash != learned.hash


def test_with_a_mask_the_inside_is_asked_of_the_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the outside asks nothing, the attractors stay."""
    halves = training_pass.mask_split
    monkeypatch.setattr(training_pass, "mask_split", lambda *given: (halves(*given)[0], 0 * halves(*given)[1]))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    with training_session(tiny.model(), tiny.clip()) as session:
        begun, snapshots = split_task(session, mask), []
        learned = learn(replace(begun, keep=snapshots.append, keep_every=0.0)).concept
        assert learned.hash != begun.concept.hash
        moved = snapshots[-1].tensors
        assert all(torch.equal(moved[f"parameter.{name}"], row) for name, row in begun.attractors.items())


def test_the_split_loss_learns_the_same_with_gradient_checkpointing() -> None:
    ends = []
    for checkpoint in (False, True):
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., :4] = 1
        with training_session(tiny.model(), tiny.clip(), checkpoint) as session:
            ends.append(learn(split_task(session, mask)).concept.tensors())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_soft_masks_are_found_on_every_family(family: str) -> None:
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        given = latents()
        own = torch.ones(4, 1, 8, 8)
        own[1, ..., :3] = 0
        found = task_of(
            Beginning(
                session.encoder, session.denoiser.base, replace(QUICK, soft_masks=True), "mug", "stuffed toy",
                "subject", denoiser=session.denoiser, latents=replace(given, masks=tuple(own)),
            ),
            seed=0,
        ).latents  # fmt: skip
        assert torch.equal(found.masks[1], own[1])
        others = torch.stack((*found.masks[:1], *found.masks[2:], *found.held_masks)).flatten(1)
        assert torch.equal(others.amin(1), torch.zeros(5)) and torch.equal(others.amax(1), torch.ones(5))


@pytest.mark.parametrize("method", ["layerwise", "staged fast", "nested"])
def test_pictures_of_several_shapes_are_learned_together(method):
    recipe = replace(
        recipe_for(method, "SD 1.5", "subject"), steps=6, batch_size=2, checks=2, class_pictures=2, soft_masks=True
    )
    square, generator = latents(), torch.Generator().manual_seed(1)
    tall = tuple(torch.randn(4, 16, 8, generator=generator) for _ in range(2))
    masks = (torch.ones(1, 16, 8),) * 2
    every = replace(square, train=(*square.train[:2], *tall), masks=(*square.masks[:2], *masks))
    every = replace(every, held_out=(square.held_out[0], tall[0]), held_masks=(square.held_masks[0], masks[0]))
    learned = run("SD 1.5", recipe, latents=every)
    assert learned.finished and len(learned.losses) == 6 and all(map(math.isfinite, learned.losses))
    assert learned.held and all(math.isfinite(one.loss) for one in learned.held)
