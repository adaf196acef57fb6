"""The arithmetic of the scores, on vectors whose similarities are known."""

import math

import pytest
import torch
from concept_loom.personalization import scores
from concept_loom.personalization.scores import Real
from torch import Tensor


def at(*degrees: float) -> Tensor:
    """Unit vectors of a plane: two of them are as alike as the cosine of the angle between them."""
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack((angles.cos(), angles.sin()), 1)


def cos(degrees: float) -> float:
    return math.cos(degrees * math.pi / 180)


NONE = torch.zeros(0, 2)


def test_identity_is_measured_against_held_out_pictures_and_else_against_training_ones() -> None:
    real = Real(at(0, 10), at(90, 70))
    assert scores.marks(at(80), real).identity.tolist() == pytest.approx([cos(10)])
    assert scores.marks(at(80), Real(at(0, 10), NONE)).identity.item() == pytest.approx((cos(80) + cos(70)) / 2)


def test_the_gap_is_positive_for_a_copy_of_a_training_picture_and_negative_for_a_held_out_one() -> None:
    gap = scores.marks(at(0, 60), Real(at(0), at(60))).gap
    assert gap is not None and gap.tolist() == pytest.approx([0.5, -0.5], abs=1e-6)


def test_without_held_out_pictures_there_is_no_gap_and_without_known_training_pictures_neither_gap_nor_copies() -> None:
    assert scores.marks(at(0), Real(at(0, 30, 60), NONE)).gap is None
    unknown = scores.marks(at(0), Real(NONE, at(0, 30, 60)))
    assert unknown.gap is None and unknown.copies is None


def test_a_memorised_picture_trips_the_copy_alarm_and_another_view_does_not() -> None:
    copies = scores.marks(at(1, 110), Real(at(0, 40), at(80))).copies
    assert copies is not None and copies.tolist() == [True, False]


def test_two_real_pictures_do_not_say_what_a_copy_is() -> None:
    assert scores.copy_threshold(Real(at(0), at(40))) is None
    assert scores.copy_threshold(Real(at(0, 40), at(80))) == pytest.approx(cos(40), abs=1e-4)


def test_the_ceiling_leaves_out_a_pictures_likeness_to_itself() -> None:
    assert scores.ceiling(Real(at(0), at(60))) == pytest.approx(0.5)
    assert scores.ceiling(Real(at(0, 60), NONE)) == pytest.approx(0.5)
    held = scores.ceiling(Real(at(90), at(0, 60)))
    assert held == pytest.approx((0.5 + cos(90) + 0.5 + cos(30)) / 4)
    assert scores.ceiling(Real(NONE, at(7))) is None


def test_kept_is_nearer_than_what_tells_real_pictures_from_the_class_words() -> None:
    floor = scores.marks(at(90, 110, 120), Real(at(0, 10, 30), NONE)).identity
    limit = scores.kept_limit(Real(at(0, 10, 30), NONE), floor)
    assert limit == pytest.approx((cos(20) + cos(30)) / 2) and float(floor.max()) < limit
    held = scores.kept_limit(Real(at(0, 10, 20), at(30)), floor)
    assert held is not None and float(floor.max()) < held


def test_a_single_judging_picture_is_not_compared_with_itself() -> None:
    """Its own likeness is unknown, and no limit: one of the class word's pictures is as near as some real ones."""
    real = Real(at(10, 20, 30, 60), at(0))
    floor = scores.marks(at(35, 110, 120, 130), real).identity
    assert scores.kept_limit(real, floor) == pytest.approx(cos(35))
    assert scores.kept_limit(Real(at(10, 20), at(0)), floor) is None, "two that can be compared are too few"


def test_where_the_class_words_pictures_are_as_near_nothing_is_kept_or_lost() -> None:
    real = Real(at(0, 60, 120), NONE)
    assert scores.kept_limit(real, scores.marks(at(0, 60, 120), real).identity) is None
    assert scores.kept_limit(Real(at(0, 10), NONE), torch.zeros(4)) is None


def test_closed_is_the_share_of_the_way_and_none_where_there_is_no_way() -> None:
    assert scores.closed(0.5, 0.2, 0.8) == pytest.approx(0.5)
    assert scores.closed(0.2, 0.2, 0.8) == 0
    assert scores.closed(0.1, 0.2, 0.8) == pytest.approx(-1 / 6)
    assert scores.closed(0.5, 0.8, 0.81) is None and scores.closed(0.5, 0.8, 0.2) is None
    assert scores.closed(0.5, 0.2, None) is None


def test_text_is_each_pictures_likeness_to_its_own_prompt() -> None:
    text = scores.marks(at(0, 90), Real(at(0), NONE), at(60, 90)).text
    assert text is not None and text.tolist() == pytest.approx([0.5, 1])


def test_means_of_some_pictures_are_those_of_these() -> None:
    every = scores.marks(at(0, 60, 90), Real(at(0), NONE))
    assert scores.means(every, slice(1, 3)).identity == pytest.approx(0.25)
    assert scores.means(every) == pytest.approx((0.5, None, None, None, None, None, None))


def test_a_gain_that_all_pictures_share_is_sure_and_one_of_single_pictures_is_not() -> None:
    floor = torch.zeros(10)
    sure = scores.gain(torch.linspace(0.1, 0.2, 10), floor)
    assert sure is not None and 0.1 < sure.low < sure.mean < sure.high < 0.2
    chance = scores.gain(torch.tensor([1.0, -1.0] * 5), floor)
    assert chance is not None and chance.low < 0 < chance.high
    assert scores.gain(torch.ones(2), torch.zeros(2)) is None


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_encoders_that_belong_together_find_pictures_by_their_prompts(count: int) -> None:
    own = torch.eye(count)
    assert scores.reads_pictures(own, own)
    assert not scores.reads_pictures(own, own.roll(1, 0))


def test_encoders_that_know_nothing_of_each_other_pass_by_chance_only() -> None:
    passed = 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        images, texts = torch.randn(2, 5, 32, generator=generator)
        passed += scores.reads_pictures(images, texts)
    assert passed <= 12


def test_one_prompt_cannot_show_that_encoders_belong_together() -> None:
    assert not scores.reads_pictures(torch.eye(1), torch.eye(1))


def test_pictures_that_point_away_from_their_prompts_are_not_read() -> None:
    texts = torch.eye(5)
    assert scores.reads_pictures(texts, texts)
    assert not scores.reads_pictures(0.01 * texts - 0.2, texts)  # in the right order, and all below 0


def test_a_copy_is_too_near_as_a_whole_and_as_a_thing() -> None:
    real = Real(at(0, 20, 40), NONE)
    same_setting, same_thing = at(1, 90, 1), at(90, 1, 1)
    whole, things = (scores.marks(one, real, one) for one in (same_setting, same_thing))
    found = scores.of_things(whole, things)
    assert whole.copies.tolist() == [True, False, True] and things.copies.tolist() == [False, True, True]
    assert found.copies.tolist() == [False, False, True]
    assert torch.equal(found.identity, things.identity) and torch.equal(found.whole, whole.identity)
    assert scores.of_things(whole, things._replace(copies=None)).copies is None
