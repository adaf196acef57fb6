"""A method's own settings as people write them."""

from dataclasses import replace

import pytest
from concept_loom.personalization.recipe import Recipe, recipe_for
from concept_loom.personalization.settings import KNOWN, OF, WEIGHTS, with_settings

STAGED, QUICK = recipe_for("staged", "SDXL", "subject"), recipe_for("quick", "SDXL", "subject")
SAMPLES = {
    "captions": "false",
    "keeps_best": "true",
    "casr_squared": "true",
    "schedule": "constant",
    "optimizer": "muon",
    "sites": "output.0.*|middle.0.3",
    "stages": "3|1",
    "w_mean": "0.5",
    "w_var": "0",
}


def test_nothing_written_is_nothing_changed() -> None:
    assert with_settings(QUICK, " \n ") is QUICK


def owner(name: str) -> Recipe:
    """A recipe whose method has the setting."""
    methods = {"keeps_best": "quick", "rank": "staged", "image_tokens": "layerwise", "bank": "nested"}
    recipe = recipe_for(methods.get(OF.get(name, ""), "staged"), "SDXL", "subject")
    return replace(recipe, attractor=name == "contrast")


@pytest.mark.parametrize("name", KNOWN)
def test_every_setting_changes_the_recipe_and_so_the_learning_key(name: str) -> None:
    recipe = owner(name)
    assert with_settings(recipe, f"{name}={SAMPLES.get(name, 7)}").decisive() != recipe.decisive()


@pytest.mark.parametrize("name", [*OF, *WEIGHTS])
def test_what_would_change_nothing_is_refused(name: str) -> None:
    """Also where auto took the method."""
    recipe = STAGED if name == "patience" else QUICK
    with pytest.raises(ValueError, match=f"{name} is set, but the method {recipe.method} has no"):
        with_settings(recipe, f"{name}={SAMPLES.get(name, 7)}")


def test_patience_acts_where_held_out_pictures_choose() -> None:
    assert with_settings(STAGED, "keeps_best=true, patience=4").patience == 4


def test_commas_spaces_and_lines_part_settings() -> None:
    changed = with_settings(STAGED, "rank=16, warmup=0.2\nsites=output.0.*|middle.0.3")
    assert (changed.rank, changed.warmup) == (16, 0.2) and changed.sites == ("output.0.*", "middle.0.3")


def test_stages_are_those_to_keep_in_their_order() -> None:
    assert with_settings(STAGED, "stages=3|1").stages == (STAGED.stages[0], STAGED.stages[2])


def test_a_weight_of_the_regulariser_stays_where_there_is_one() -> None:
    weights = [stage.w_var for stage in with_settings(STAGED, "w_var=9").stages]
    assert [bool(one) for one in weights] == [bool(stage.w_var) for stage in STAGED.stages] and 9.0 in weights


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank", "rank is ''"),
        ("rank=1.5", "whole number"),
        ("rank=-1", "whole number"),
        ("rank=0", "1 or more"),
        ("slots=65", "1 to 64"),
        ("warmup=loud", "a number from 0 on"),
        ("warmup=nan", "a number from 0 on"),
        ("schedule=linear", "constant or cosine"),
        ("optimizer=Adam", "adamw or muon"),
        ("stages=4", "the method has 3"),
        ("stages=", "whole number"),
        ("batch_size=2", "no setting 'batch_size'"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_settings(STAGED, text)


def test_a_switch_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="true or false"):
        with_settings(owner("casr_squared"), "casr_squared=1")


def test_every_setting_is_one_of_a_recipe_or_its_stages() -> None:
    fields = {*Recipe("", ()).as_header(), "w_mean", "w_var"}
    assert set(KNOWN) <= fields
