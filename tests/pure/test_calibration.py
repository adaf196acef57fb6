"""The attention regulariser in a run: which columns it watches, and that it does what it says."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.calibration import Calibration
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.denoiser import Context, Observation, Slots
from concept_loom.personalization.learner import LearnTask, learn
from concept_loom.personalization.methods import Beginning, start
from concept_loom.personalization.recipe import Recipe, Stage

from .toy import BASE, SITES, ToyDenoiser, ToyPromptEncoder, toy_latents

CPU = torch.device("cpu")
EMPTY = Context(torch.zeros(1, 10, 4))


def said(rows, category, word="mug"):
    count = len(rows)
    return replace(EMPTY, slots=(Slots(word, "", {"l": rows, "g": rows}, (1.0,) * count, {"l": category}),))


def test_it_watches_the_slots_and_then_the_category_of_the_first_occurrence():
    contexts = [said((4,), (5, 6)), said((2, 8), (3, 4, 9, 10))]
    assert Calibration(contexts, "mug", 1, CPU).observer.columns.tolist() == [[4, 5, 6], [2, 3, 4]]


def test_a_sample_in_which_the_word_was_cut_off_counts_nothing():
    watching = Calibration([said((4,), (5,)), EMPTY], "mug", 1, CPU)
    assert watching.observer.columns.tolist() == [[4, 5], [0, 0]]


def test_attention_that_another_pack_replaces_everywhere_is_named():
    with pytest.raises(ValueError, match="Another pack replaces the text attention.*Connect the MODEL from before"):
        Calibration([said((4,), (5,))], "mug", 1, CPU).loss(1.0, 1.0)


def test_nothing_of_a_step_is_left_once_it_is_over():
    """The graph hangs on what was seen; a cycle would keep it until Python looks for cycles."""
    gc.disable()
    try:
        watching = Calibration([said((4,), (5,))], "mug", 1, CPU)
        watching.observer.see(SITES[0], Observation(torch.zeros(1, 4, 8), torch.rand(1, 2, 4, 2)))
        left = weakref.ref(watching)
        del watching
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("context", [EMPTY, said((4,), ()), said((4,), (5,), "hat")])
def test_a_word_without_a_category_is_refused(context):
    with pytest.raises(ValueError, match="no word beside its slot"):
        Calibration([context], "mug", 1, CPU)


def task(w_mean, w_var):
    stage = Stage(("embedding.",), 2e-1, w_mean=w_mean, w_var=w_var)
    recipe = Recipe("quick", (stage,), steps=30, batch_size=8, templates=("a photo of a {}",))
    encoder = ToyPromptEncoder()
    concept = start(Beginning(encoder, BASE, recipe, "mug", "coffee mug", "subject"))
    bare = replace(concept, parts=())
    other = {key: 4 * torch.ones_like(rows) for key, rows in concept.embeddings.items()}  # far from its category
    return LearnTask(ToyDenoiser(), encoder, replace(bare, embeddings=other), toy_latents(held_out=0), recipe)


def distance(one, concept):
    composition = (PlacedConcept(concept),)
    contexts = [one.prompt_encoder.encode("a photo of a <mug>", composition)] * 4
    watching = Calibration(contexts, "mug", 1, CPU)
    noised = torch.randn(4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    one.denoiser.predict(noised, torch.ones(4), contexts, composition, watching.observer)
    return float(watching.loss(1.0, 1.0))


def test_a_stage_that_weighs_it_brings_the_word_and_its_category_together():
    free, held = task(0.0, 0.0), task(1e3, 1e3)
    assert distance(held, learn(held).concept) < 0.5 * distance(free, learn(free).concept)
