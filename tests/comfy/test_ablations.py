"""What the tables of ablations and sites vary: which tensors a row trains, where a concept is kept, on which base."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import pytest
import torch
from concept_loom.benchmarks.ablations import VARIED, ablations
from concept_loom.benchmarks.finetuned import SIZE, finetuned
from concept_loom.benchmarks.made import drawn, learned_subject, trained_parameters
from concept_loom.benchmarks.sites import EVERYWHERE, NOWHERE, at, placements
from concept_loom.benchmarks.wind_tunnel import Case, Tunnel, before, cases
from concept_loom.personalization.concept import Concept
from concept_loom.playground.model import load
from concept_loom.tests.scratch_weights import write_scratch_weights
from torch import Tensor

ROWS = ablations(80)


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Tunnel:
    folder = tmp_path_factory.mktemp("weights")
    write_scratch_weights(folder)
    return Tunnel(load(folder), None)  # type: ignore[arg-type] - nothing is judged here


@pytest.fixture(scope="module")
def case() -> Case:
    return cases(1, 5)[0]


def learned(tunnel: Tunnel, case: Case, name: str, pace: float = 1.0, **changes: Any) -> Concept:
    """After two steps in every stage, at `pace` times the learning rate."""
    recipe = ROWS[name].recipe
    assert recipe
    stages = tuple(replace(one, share=1.0, learning_rate=pace * one.learning_rate) for one in recipe.stages)
    few = replace(recipe, stages=stages, steps=2 * len(stages), batch_size=2)
    return learned_subject(replace(few, **changes), tunnel, case)


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The kinds of tensors that differ: context_rows, low_rank.attn2, ..."""
    names = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    return {".".join((name.split(".")[0], *name.split(".")[4:5])) for name in names}


def test_a_row_stands_against_one_that_was_made_before() -> None:
    names = list(ROWS)
    for number, row in enumerate(ROWS.values()):
        assert not row.against or row.against in names[:number]


def test_a_row_differs_from_what_it_stands_against_in_recipe_or_setting() -> None:
    for row in ROWS.values():
        if row.against:
            other = ROWS[row.against]
            ours, theirs = ((one.recipe, one.setting, one.captions) for one in (row, other))
            assert ours != theirs
            assert row.setting == VARIED or row.recipe == other.recipe or row.setting == other.setting


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("rows only", {"context_rows"}),
        ("image tokens only", {"image_tokens"}),
        ("LMCL only", {"context_rows", "image_tokens"}),
        ("staged, no stage 1", {"low_rank.attn1", "low_rank.attn2", "low_rank.ff"}),
        ("staged, no stage 3", {"embedding", "low_rank.attn2"}),
        ("nested, one value", {"nested_values"}),
    ],
)
def test_a_row_learns_what_its_name_says(tunnel: Tunnel, case: Case, name: str, kinds: set[str]) -> None:
    start, concept = (learned(tunnel, case, name, pace) for pace in (0.0, 1.0))
    assert changed(start.tensors(), concept.tensors()) == kinds
    recipe = ROWS[name].recipe
    every = sum(tensor.numel() for tensor in concept.tensors().values())
    assert recipe and 0 < trained_parameters(concept, recipe) < every


def test_another_base_has_other_weights_of_the_stated_size_and_leaves_its_own_alone(tunnel: Tunnel) -> None:
    model = tunnel.playground.model
    old = {key: weight.clone() for key, weight in model.model.state_dict().items()}
    other = finetuned(model)
    comfy.model_management.load_models_gpu([other], force_full_load=True)
    new = {key: weight.clone() for key, weight in other.model.state_dict().items()}
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    moved = {key for key, weight in old.items() if not torch.equal(weight, new[key])}
    assert moved == {key for key, weight in old.items() if ".transformer_blocks." in key and weight.ndim == 2}
    for key in moved:
        assert float((new[key] - old[key]).norm() / old[key].norm()) == pytest.approx(SIZE, rel=1e-3)
    assert all(torch.equal(weight, old[key]) for key, weight in model.model.state_dict().items())
    assert not model.patches


def test_a_concept_kept_nowhere_is_its_class_word_and_kept_at_one_site_acts_there_only(
    tunnel: Tunnel, case: Case
) -> None:
    concept = learned(tunnel, case, "quick", sites=())
    sites = tuple(shape.site for shape in concept.info.base.sites)
    kept = placements(sites)
    assert len(kept) == 2 + 2 * len(sites) and len(set(kept.values())) == len(kept)
    few = replace(case, settings=case.settings[:1])
    assert torch.equal(
        drawn(at(concept, kept[NOWHERE]), tunnel, few).images, tunnel.sample(few, case.class_word).images
    )
    for name, where in kept.items():
        if name != NOWHERE:
            assert at(concept, where).concept.parts[0].sites == where
    assert at(concept, kept[EVERYWHERE]).concept.hash == concept.hash


def test_pictures_before_one_background_are_of_the_same_instance_and_come_out_the_same_again(case: Case) -> None:
    beach = before(case, "beach")
    assert beach.instance == case.instance and beach.training.shape == case.training.shape
    assert torch.equal(beach.training, before(case, "beach").training)
    assert not torch.equal(beach.training, before(case, "night").training)
