"""How long learning still takes, from the pace of the steps so far."""

import pytest
from concept_loom.personalization.learned import Step
from concept_loom.personalization.outlook import duration, outlook


def at(step: int, seconds: float, steps: int = 400) -> Step:
    return Step(step, steps, 0.5, seconds)


def test_nothing_is_told_before_ten_steps_or_without_a_pace() -> None:
    assert outlook(at(1, 5.0), at(9, 9.0)) == ""
    assert outlook(at(200, 5.0), at(208, 9.0)) == "" != outlook(at(200, 5.0), at(209, 9.0))  # after going on


def test_the_time_left_follows_the_pace_after_the_first_step() -> None:
    assert outlook(at(1, 100.0), at(12, 105.5)) == "12 of 400 steps, about 3 minutes left on this machine."


def test_going_on_from_a_snapshot_takes_the_pace_of_this_run() -> None:
    assert outlook(at(300, 2.0), at(350, 52.0)) == "350 of 400 steps, about 50 seconds left on this machine."


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "1 second"), (59, "59 seconds"), (75, "1 minute"), (3599, "1 hour"), (5400, "1 hour and 30 minutes")],
)
def test_a_duration_is_said_in_its_own_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said
