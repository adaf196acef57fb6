"""The scorecard: what is given, what is withheld and why, in words and as data."""

import json

import pytest
import torch
from concept_loom.personalization.asked import Asked
from concept_loom.personalization.scorecard import COLUMNS, Drawn, Scorecard, Vectors, scorecard, unscored
from concept_loom.personalization.scores import Real, Surroundings
from torch import Tensor
from torch.nn import functional as F

PROMPTS = (Asked("<mug> here", "mug here"), Asked("<mug> there", "mug there"))
NONE = torch.zeros(0, 16)


def near(centre: Tensor, count: int, spread: float, seed: int) -> Tensor:
    noise = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(centre + spread * noise, dim=1)


THING, CLASS = torch.eye(16)[0], torch.eye(16)[1]
REAL = Real(near(THING, 4, 0.1, 1), near(THING, 2, 0.1, 2))
LEARNED = Drawn(near(THING, 6, 0.1, 3), near(CLASS, 6, 0.1, 4), None)


def card(drawn: Drawn = LEARNED, real: Real = REAL, withheld: dict[str, str] | None = None) -> Scorecard:
    return scorecard("mug", "mug", PROMPTS, Vectors(drawn, real), withheld or {})


def test_what_was_learned_is_near_the_ceiling_and_said() -> None:
    floor, ours, top = card().overall()
    assert floor.closed == 0 and top.closed == 1 and ours.closed == pytest.approx(1, abs=0.2)
    assert "something of it was learned" in card().table()


def test_a_concept_like_the_class_word_is_not_called_learned() -> None:
    same = Drawn(LEARNED.plain, LEARNED.plain, None)
    assert card(same).overall()[1].closed == 0
    assert "cannot be told from the class word" in card(same).table()


def test_each_prompt_has_the_scores_of_its_own_pictures() -> None:
    mixed = Drawn(torch.cat((LEARNED.concept[:3], LEARNED.plain[3:])), LEARNED.plain, None)
    first, second = card(mixed).line(0), card(mixed).line(1)
    assert first.name == "<mug> here" and first.closed == pytest.approx(1, abs=0.2)
    assert second.closed == 0


def test_where_real_pictures_are_no_nearer_than_the_class_word_no_share_is_given_anywhere() -> None:
    apart = Real(near(CLASS, 4, 0.1, 1), near(THING, 1, 0.1, 2))
    one = card(real=apart, drawn=Drawn(near(THING, 6, 0.1, 3), near(THING, 6, 0.1, 4), None))
    shares = [line.closed for line in (*one.overall(), one.line(0), one.line(1))]
    assert shares == [None] * 5 and "no nearer to each other" in one.table()


def test_without_held_out_pictures_overfitting_is_not_judged() -> None:
    one = card(real=Real(REAL.training, NONE))
    assert one.overall()[1].gap is None and "overfitting cannot be judged" in one.table()
    assert "overfitting cannot be judged" not in card().table()


def test_an_alarm_that_rings_for_the_class_word_too_says_nothing() -> None:
    copied = REAL.training[:1].expand(6, -1)
    assert "Copy alarm: 6 of 6 pictures, class word 0 (nearer" in card(Drawn(copied, LEARNED.plain, None)).table()
    assert "it says nothing here" in card(Drawn(copied, copied, None)).table()


def test_without_an_image_encoder_every_score_is_withheld_with_its_reason() -> None:
    one = unscored("mug", "mug", PROMPTS, 3, "nothing to see with")
    data = json.loads(json.dumps(one.data()))
    assert data["withheld"] == dict.fromkeys(COLUMNS, "nothing to see with")
    assert [prompt[score] for prompt in data["prompts"] for score in COLUMNS] == [None] * 2 * len(COLUMNS)
    assert one.table().count("nothing to see with") == 1 and one.caption(0, True) == ("", "")


def test_the_data_hold_what_the_table_says() -> None:
    data = json.loads(json.dumps(card(withheld={"text": "no text"}).data()))
    assert [line["name"] for line in data["overall"]] == ["class word: mug", "<mug>", "real pictures"]
    assert data["overall"][1]["identity"] == pytest.approx(card().overall()[1].identity)
    assert data["withheld"] == {"text": "no text"} and data["overall"][1]["text"] is None
    assert [one["without_placeholder"] for one in data["prompts"]] == ["mug here", "mug there"]


def test_surroundings_that_come_along_are_a_leak_and_others_are_none() -> None:
    scene, other = near(torch.eye(16)[2], 6, 0.05, 7), near(torch.eye(16)[3], 6, 0.05, 8)
    training = near(torch.eye(16)[2], 4, 0.05, 9)

    def beside(concept: Tensor) -> Scorecard:
        whole = Vectors(LEARNED, REAL)
        return scorecard("mug", "mug", PROMPTS, whole, {}, whole, Surroundings(concept, other, training))

    floor, ours, top = beside(scene).overall()
    assert floor.leak == 0 and ours.leak == pytest.approx(1, abs=0.2) and top.leak is None
    assert beside(scene).line(1).leak == pytest.approx(1, abs=0.2)
    assert "what surrounded it in training comes along" in beside(scene).table()
    assert beside(other).overall()[1].leak == 0 and "nothing else is seen to come along" in beside(other).table()
    assert card().overall()[1].leak is None and "comes along" not in card().table()


def test_things_cut_out_decide_and_the_whole_picture_stands_beside_them() -> None:
    """Whole pictures share a setting with the training ones; only the concept's things are the thing."""
    setting = Drawn(near(THING, 6, 0.01, 5), near(THING, 6, 0.01, 6), None)
    one = scorecard("mug", "mug", PROMPTS, Vectors(setting, REAL), {}, Vectors(LEARNED, REAL))
    floor, ours, _ = one.overall()
    assert ours.closed == pytest.approx(1, abs=0.2) and floor.closed == 0
    assert floor.whole > 0.9 > floor.identity
    assert "cut out" in one.table() and "whole" in one.table().splitlines()[1]
    assert "cut out" not in card().table() and card().overall()[1].whole is None
