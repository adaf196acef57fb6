"""From what a designer asks for to a recipe."""

from dataclasses import replace

import pytest
from concept_loom.personalization.wish import Wish, recipe_of

WISH = Wish("mug", "mug", "subject", "quick", "fast")


def test_a_larger_budget_means_more_and_given_steps_mean_exactly_those() -> None:
    for family in ("Playground", "SDXL"):
        fast, thorough = (recipe_of(replace(WISH, budget=b), family, 5) for b in ("fast", "thorough"))
        assert thorough.steps > fast.steps
        exact = recipe_of(replace(WISH, steps=7, learning_rate=0.5, batch_size=3), family, 5)
        assert (exact.steps, exact.batch_size) == (7, 3)
        assert exact.stages[0].learning_rate == 0.5


def test_a_given_learning_rate_holds_however_long_the_run() -> None:
    asked = replace(WISH, method="staged fast", budget="thorough")
    assert recipe_of(asked, "SDXL", 5).pace(0, 1440) == pytest.approx(1 / 4)
    given = recipe_of(replace(asked, steps=5000, learning_rate=1e-4), "SDXL", 5)
    assert given.pace(0, 5000) == 1.0


def test_a_given_learning_rate_is_that_of_the_first_stage_that_is_learned() -> None:
    own = recipe_of(replace(WISH, method="staged fast"), "SDXL", 5)
    for kept, first in (("", 0), ("stages=2|3", 1), ("stages=3", 2)):
        given = recipe_of(replace(WISH, method="staged fast", learning_rate=1e-4, settings=kept), "SDXL", 5)
        assert given.stages[0].learning_rate == pytest.approx(1e-4)
        ratio = own.stages[-1].learning_rate / own.stages[first].learning_rate
        assert given.stages[-1].learning_rate == pytest.approx(1e-4 * ratio)


def test_captions_take_the_place_of_a_subjects_second_stage_where_that_was_measured() -> None:
    def stages(family: str = "Playground", role: str = "subject", captioned: bool = True, settings: str = "") -> int:
        wish = replace(WISH, method="staged fast", role=role, settings=settings)
        return len(recipe_of(wish, family, 5, captioned=captioned).stages)

    assert stages() == 2 and stages(captioned=False) == stages(role="style") == stages(family="SDXL") == 3
    assert stages(settings="captions=false") == 3, "they are not read"
    assert stages(settings="stages=1|2|3") == 3 and stages(settings="stages=2") == 1
    first, last = recipe_of(replace(WISH, method="staged fast"), "Playground", 5, captioned=True).stages
    assert first.trains == ("embedding.",) and last.trains == ("low_rank.",)


@pytest.mark.parametrize(("role", "wanted"), [("subject", True), ("both", True), ("style", False)])
def test_what_parts_subject_and_surroundings_is_not_for_styles(role: str, wanted: bool) -> None:
    recipe = recipe_of(replace(WISH, role=role, attractor=True, soft_masks=True), "Playground", 5)
    assert (recipe.attractor, recipe.soft_masks) == (wanted, wanted)


def test_each_term_of_a_loss_can_be_switched_off_alone() -> None:
    layerwise, staged = replace(WISH, method="layerwise"), replace(WISH, method="staged")

    def terms(wish: Wish) -> tuple[bool, bool, bool]:
        recipe = recipe_of(wish, "SD 1.5", 5)
        return recipe.dpp > 0, recipe.casr > 0, any(stage.w_mean or stage.w_var for stage in recipe.stages)

    assert terms(layerwise) == (True, True, False) and terms(staged) == (False, False, True)
    assert terms(replace(layerwise, prior_preservation=False)) == (False, True, False)
    assert terms(replace(layerwise, self_regularisation=False)) == (True, False, False)
    assert terms(replace(staged, attention_regulariser=False)) == (False, False, False)
    assert terms(replace(staged, role="style")) == (False, False, False) and terms(replace(staged, role="both"))[2]


def test_attractors_are_asked_for_all_that_is_outside_where_pictures_have_masks() -> None:
    wish = replace(WISH, attractor=True)
    assert recipe_of(wish, "SD 1.5", 5, masked=True).mask_split
    assert not recipe_of(wish, "SD 1.5", 5).mask_split and not recipe_of(WISH, "SD 1.5", 5, masked=True).mask_split


def test_captions_give_quick_more_slots_where_that_was_measured_unless_slots_are_asked_for() -> None:
    def slots(family: str = "Playground", role: str = "subject", captioned: bool = True, settings: str = "") -> int:
        return recipe_of(replace(WISH, role=role, settings=settings), family, 5, captioned=captioned).slots

    assert slots() == 16 and slots(captioned=False) == slots(settings="captions=false") == 8
    assert slots(settings="slots=3") == slots(settings="slots=3", captioned=False) == 3
    assert slots(family="SDXL") == slots(family="SDXL", captioned=False)
    assert slots(role="style") == slots(role="style", captioned=False)
