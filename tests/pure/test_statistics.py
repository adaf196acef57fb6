import numpy as np
import pytest
from concept_loom.benchmarks import statistics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.mark.parametrize(
    ("positives", "negatives", "area"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1, 1], [1, 1], 0.5), ([1, 3], [0, 2], 0.75)],
)
def test_auc_is_the_chance_that_a_positive_scores_above_a_negative(positives, negatives, area):
    assert statistics.auc(positives, negatives) == pytest.approx(area)


@pytest.mark.parametrize(
    ("positives", "negatives", "rate"),
    [([2, 3, 4], [-1, 0, 1], 0.0), ([0, 2, 3, 4], [-2, -1, 0, 3], 0.25), ([0, 1], [2, 3], 1.0)],
)
def test_the_equal_error_rate_counts_both_errors_alike(positives, negatives, rate):
    assert statistics.equal_error(positives, negatives).rate == pytest.approx(rate)


def test_the_equal_error_threshold_lies_midway_between_two_equal_bells(rng):
    found = statistics.equal_error(rng.normal(2, 1, 20000), rng.normal(0, 1, 20000))
    assert found.threshold == pytest.approx(1.0, abs=0.05)
    assert found.rate == pytest.approx(0.1587, abs=0.01)


def test_rank_correlation_sees_order_only():
    x = [1.0, 2.0, 3.0, 4.0]
    assert statistics.spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert statistics.spearman(x, [-v for v in x]) == pytest.approx(-1.0)
    assert statistics.spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1.0)
    assert statistics.spearman(x, [5, 5, 5, 5]) == 0.0


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says(rng):
    hits = [
        found.low <= 0.3 <= found.high for found in (statistics.interval(rng.normal(0.3, 1, 40)) for _ in range(200))
    ]
    assert 0.88 < np.mean(hits) <= 0.99


def test_pairing_removes_what_both_share(rng):
    shared = rng.normal(0, 10, 50)
    ours, theirs = shared + 0.5 + rng.normal(0, 0.1, 50), shared
    found = statistics.paired_interval(ours, theirs)
    assert found.low > 0.4
    assert found.high < 0.6
    assert found == statistics.paired_interval(ours, theirs)
