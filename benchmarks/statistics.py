"""The few statistics that the tables use, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Numbers = Sequence[float] | np.ndarray
DRAWS, BOUNDS = 4000, (0.025, 0.975)  # of the bootstrap


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


class ErrorRate(NamedTuple):
    rate: float
    threshold: float


def interval(values: Numbers) -> Interval:
    """Mean of values and its 95 % bootstrap interval."""
    values = np.asarray(values, float)
    picks = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(values[picks].mean(1), BOUNDS)
    return Interval(float(values.mean()), float(low), float(high))


def paired_interval(ours: Numbers, theirs: Numbers) -> Interval:
    """Mean difference ours - theirs, value by value, and its bootstrap interval; give means per independent unit."""
    return interval(np.asarray(ours, float) - np.asarray(theirs, float))


def closed_share(identity: Numbers, floor: Numbers, ceiling: Numbers) -> Interval:
    """(identity - floor) / (ceiling - floor) over the cases' means, with its bootstrap interval over cases."""
    gained, way = (np.asarray(above, float) - np.asarray(floor, float) for above in (identity, ceiling))
    picks = np.random.default_rng(0).integers(len(gained), size=(DRAWS, len(gained)))
    low, high = np.quantile(gained[picks].mean(1) / way[picks].mean(1), BOUNDS)
    return Interval(float(gained.mean() / way.mean()), float(low), float(high))


def auc(positives: Numbers, negatives: Numbers) -> float:
    """The chance that a positive scores above a negative; ties count half (Mann-Whitney U / mn)."""
    positives, negatives = np.asarray(positives, float), np.asarray(negatives, float)
    order = ranks(np.concatenate([positives, negatives]))
    above = order[: len(positives)].sum() - len(positives) * (len(positives) + 1) / 2
    return float(above / (len(positives) * len(negatives)))


def equal_error(positives: Numbers, negatives: Numbers) -> ErrorRate:
    """Where as many positives lie below the threshold as negatives at or above it."""
    positives, negatives = np.sort(np.asarray(positives, float)), np.sort(np.asarray(negatives, float))
    thresholds = np.unique(np.concatenate([positives, negatives]))
    missed = np.searchsorted(positives, thresholds) / len(positives)
    passed = 1 - np.searchsorted(negatives, thresholds) / len(negatives)
    best = int(np.abs(missed - passed).argmin())
    return ErrorRate(float((missed[best] + passed[best]) / 2), float(thresholds[best]))


def spearman(x: Numbers, y: Numbers) -> float:
    """Rank correlation; ties get their mean rank. 0 where one of the two never changes."""
    a, b = ranks(np.asarray(x, float)), ranks(np.asarray(y, float))
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """1..n; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]
