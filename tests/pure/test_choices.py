"""What a score that chooses the kept state is worth, on curves whose best state is known."""

import pytest
from concept_loom.benchmarks.choices import CANDIDATES, both, chosen_by_each

ROW = {
    "steps": [10, 20, 30, 40],
    "loss, 1 held out": [0.5, 0.6, 0.7, 0.8],  # lowest at once
    "loss, 2 held out": [0.5, 0.4, 0.3, 0.6],
    "probe, whole": [0.4, 0.3, 0.2, 0.1],
    "probe, cut out": [0.1, 0.3, 0.4, 0.2],
    "identity": [0.1, 0.3, 0.5, 0.4],
    "attributes": [1.0, 1.0, 1.0, 0.9],
    "anew": {"identity": [0.1, 0.4, 0.6, 0.5], "attributes": [1.0, 1.0, 1.0, 0.7]},
}


def test_each_candidate_pays_what_its_state_lies_below_the_best_one() -> None:
    found = chosen_by_each([ROW, ROW])
    lost = {name: one["lost"] for name, one in found.items()}
    assert lost == pytest.approx(
        {
            "the last": 0.2,
            "loss, 1 held out": 0.4,
            "loss, 2 held out": 0.0,
            "probe, whole": 0.4,
            "probe, cut out": 0.0,
            "loss and probe, cut out": 0.0,
        }
    )
    assert set(found) == set(CANDIDATES)


def test_a_low_loss_and_a_high_probe_rank_as_the_judge_does() -> None:
    found = chosen_by_each([ROW])
    assert found["loss, 2 held out"]["identity_rank"] == pytest.approx(0.4)
    assert found["loss, 1 held out"]["worth_rank"] < 0 < found["probe, cut out"]["worth_rank"]
    assert found["probe, whole"]["identity_rank"] == -found["the last"]["identity_rank"]


def test_learning_anew_is_held_against_the_same_best_state() -> None:
    found = chosen_by_each([ROW])
    assert found["loss, 2 held out"]["steps"] == 30
    assert found["loss, 2 held out"]["lost_anew"] == pytest.approx(-0.1)
    assert found["loss, 2 held out"]["anew_gains"] == pytest.approx([0.1] * 3)
    assert found["the last"]["anew_gains"][0] == pytest.approx(-0.1)


def test_ranks_of_two_scores_add_up() -> None:
    assert both(ROW, "loss, 2 held out", "probe, cut out").tolist() == [3.0, 6.0, 8.0, 3.0]
