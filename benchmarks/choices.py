"""From curves over the checkpoints of a learning to the states that scores would keep, and what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .statistics import interval, ranks, spearman

Curves = Mapping[str, Sequence[float]]  # a number per checkpoint


class Choice(NamedTuple):
    """Over instances: rank correlation with the judge, and what the choice loses; all of one candidate."""

    identity_rank: float
    attributes_rank: float
    worth_rank: float
    steps: float  # of the chosen checkpoint
    lost: float  # identity + attributes below the oracle's, on the split
    lost_anew: float  # ... of learning on all pictures for that many steps, below the same oracle


CANDIDATES: dict[str, Callable[[Curves], np.ndarray]] = {
    "the last": lambda row: np.array(row["steps"], float),
    "loss, 1 held out": lambda row: -np.array(row["loss, 1 held out"]),
    "loss, 2 held out": lambda row: -np.array(row["loss, 2 held out"]),
    "probe, whole": lambda row: np.array(row["probe, whole"]),
    "probe, cut out": lambda row: np.array(row["probe, cut out"]),
    "loss and probe, cut out": lambda row: both(row, "loss, 2 held out", "probe, cut out"),
}


def both(row: Curves, loss: str, probe: str) -> np.ndarray:
    """The sum of their ranks over the checkpoints."""
    return ranks(-np.array(row[loss])) + ranks(np.array(row[probe]))


def worth(curves: Curves) -> np.ndarray:
    """Identity + attributes as the judge sees them: what a kept state is worth."""
    return np.array(curves["identity"]) + np.array(curves["attributes"])


def choice(row: Mapping, score: np.ndarray) -> Choice:
    """What choosing by `score` brings on one instance."""
    here, anew = worth(row), worth(row["anew"])
    best = int(score.argmax())
    return Choice(
        spearman(score, row["identity"]),
        spearman(score, row["attributes"]),
        spearman(score, here),
        float(row["steps"][best]),
        float(here.max() - here[best]),
        float(here.max() - anew[best]),
    )


def chosen_by_each(rows: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Candidate -> means over instances, and the interval of what learning anew gains."""
    found = {}
    for name, score in CANDIDATES.items():
        choices = [choice(row, score(row)) for row in rows]
        means = {field: round(float(np.mean([getattr(one, field) for one in choices])), 4) for field in Choice._fields}
        gained = interval([one.lost - one.lost_anew for one in choices])
        found[name] = {**means, "anew_gains": [round(value, 4) for value in gained]}
    return found
