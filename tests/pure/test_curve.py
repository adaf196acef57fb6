import json
from statistics import fmean

from concept_loom.personalization.concept import Concept
from concept_loom.personalization.curve import POINTS, Curve
from concept_loom.personalization.learned import Held, Planned, Preview, Started, Step

from .concepts import concept


def curve_of(*events):
    curve = Curve()
    for event in events:
        curve.add(event)
    return curve.data()


def steps(count, first=1):
    return [Step(number, 1000, 1 / number, 0.1) for number in range(first, first + count)]


def test_before_the_first_step_there_is_nothing_to_draw():
    one: Concept = concept()
    assert curve_of(Planned("Learning needs 1 GB."), Held(0, 1.0, True), Preview(0, one)) is None


def test_a_long_learning_is_a_few_means_that_end_at_its_last_step():
    taken = steps(997)
    data = curve_of(*taken)
    assert 1 < len(data["training"]) <= POINTS and data["training"][-1][0] == 997
    stretch = -(-997 // POINTS)
    assert data["training"][0] == (stretch, fmean(one.loss for one in taken[:stretch]))


def test_what_goes_on_from_a_snapshot_begins_where_it_was():
    assert curve_of(*steps(3, first=500))["training"][0][0] == 500


def test_what_starts_once_more_draws_nothing_twice():
    """As where memory ran out, and learning goes on more sparingly from an earlier step."""
    once_more = curve_of(*steps(5), Held(4, 0.9, True), Started(9, 1), *steps(2, first=3))
    assert [step for step, _ in once_more["training"]] == [3, 4] and not once_more["held_out"]


def test_every_look_at_the_held_out_pictures_is_a_point_and_the_lowest_is_the_best():
    data = curve_of(*steps(4), Held(0, 1.0, True), Held(2, 0.8, True), Held(4, 0.9, False))
    assert data["held_out"] == [(0, 1.0), (2, 0.8), (4, 0.9)] and data["best"] == 2
    assert "held-out" in data["label"] and "held-out" not in curve_of(*steps(4))["label"]
    json.dumps(data)
