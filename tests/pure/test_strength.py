"""Which strength is recommended."""

import torch
from concept_loom.personalization.strength import Rung, advised


def ladder(*rungs: tuple[float, float, float]) -> list[Rung]:
    """Ten equal pictures per strength, of (strength, identity, text)."""
    return [Rung(at, torch.full((10,), identity), torch.full((10,), said)) for at, identity, said in rungs]


def test_the_smallest_strength_near_the_best_is_taken() -> None:
    advice = advised(ladder((0, 0.2, 0.3), (0.5, 0.5, 0.3), (0.8, 0.68, 0.3), (1.1, 0.7, 0.3), (1.4, 0.6, 0.3)))
    assert advice.strength == 0.8


def test_strengths_that_forget_the_prompt_are_left_out() -> None:
    rungs = ladder((0, 0.2, 0.30), (0.5, 0.4, 0.29), (0.8, 0.7, 0.28), (1.1, 0.9, 0.20))
    assert advised(rungs).strength == 0.5
    silent = [rung._replace(text=None) for rung in rungs]
    assert (advised(silent).strength, advised(silent, 1.1).strength) == (0.8, 1.1)
    assert "nothing above the file's own" in advised(silent).sentence


def test_where_nothing_beats_the_class_word_nothing_is_recommended() -> None:
    advice = advised(ladder((0, 0.5, 0.3), (0.5, 0.5, 0.3), (1, 0.4, 0.3)))
    assert advice.strength is None and "none is recommended" in advice.sentence


def test_a_gain_that_may_be_chance_is_no_reason() -> None:
    mixed = [Rung(0, torch.zeros(4)), Rung(1, torch.tensor([1.0, -1.0, 1.0, -0.5])), Rung(1.4, torch.zeros(4))]
    assert advised(mixed).strength is None
    assert advised([mixed[0], mixed[1]._replace(identity=torch.tensor([1.0, 0.5, 1.0, 0.7]))]).strength == 1


def test_too_few_pictures_and_an_end_of_the_ladder_are_said() -> None:
    sure = advised(ladder((0, 0.2, 0.3), (0.5, 0.6, 0.3), (1, 0.3, 0.3))).sentence
    assert "may mislead" not in sure and "highest one tried" not in sure
    few = [Rung(0, torch.tensor([0.2])), Rung(0.5, torch.tensor([0.1])), Rung(1, torch.tensor([0.6]))]
    assert "may mislead" in advised(few).sentence and "highest one tried" in advised(few).sentence
