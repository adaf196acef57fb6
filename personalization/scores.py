"""Scores of drawn pictures against real ones, defined in web/docs/ConceptLoom_EvaluateConcept/en.md.

All are arithmetic on unit vectors of one image encoder; similarity is their dot product. Real pictures are taken after
the VAE: that is as near as a perfect denoiser could come. A score that cannot be given is None, never a number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

COPY_PERCENTILE = 0.99
LEAST_PAIRS = 3  # of real pictures, below which their 99th percentile says nothing
LEAST_WAY = 0.02  # between floor and ceiling, below which a share of it is noise
ORDERS = 999
DRAWS = 2000  # of the bootstrap
CHANCE = 0.05
MOST_WRONG = 0.25  # of real and class word's pictures, above which nothing tells one from the other
LEAST_PROMPTS = 4  # fewer have too few orders for one of 20 to be rare


class Real(NamedTuple):
    """Pictures that it was learned from (t, d) and pictures that it was not (h, d); either may be empty."""

    training: Tensor
    held_out: Tensor

    @property
    def judges(self) -> Tensor:
        """What identity is measured against: held-out pictures, where there are none the training pictures."""
        return self.held_out if len(self.held_out) else self.training


class Marks(NamedTuple):
    """One score per picture, each (n,), or None where it cannot be given."""

    identity: Tensor
    gap: Tensor | None
    copies: Tensor | None  # bool
    text: Tensor | None
    whole: Tensor | None = None  # identity of whole pictures, where `identity` is that of things cut out of them
    kept: Tensor | None = None  # bool: nearer than `kept_limit`
    leak: Tensor | None = None


class Means(NamedTuple):
    identity: float
    gap: float | None
    copies: float | None
    text: float | None
    whole: float | None = None
    kept: float | None = None
    leak: float | None = None


class Surroundings(NamedTuple):
    """What is left without the thing: of pictures drawn with both words (n, d), and of the training ones (t, d)."""

    concept: Tensor
    plain: Tensor
    training: Tensor

    @property
    def leak(self) -> Tensor:
        """How much nearer to those of the training pictures it comes with the concept than with the class word (n,)."""
        return likeness(self.concept, self.training) - likeness(self.plain, self.training)


class Gain(NamedTuple):
    """Mean of paired differences, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def marks(made: Tensor, real: Real, texts: Tensor | None = None) -> Marks:
    """Scores of pictures made (n, d); texts (n, d) are their prompts without the placeholder, in the same space."""
    both = len(real.training) and len(real.held_out)
    usual = copy_threshold(real)
    return Marks(
        identity=likeness(made, real.judges),
        gap=likeness(made, real.training) - likeness(made, real.held_out) if both else None,
        copies=None if usual is None else (made @ real.training.T).amax(1) > usual,
        text=None if texts is None else (made * texts).sum(1),
    )


def of_things(whole: Marks, things: Marks) -> Marks:
    """Marks of pictures by the things cut out of them: a copy is too near in both, for settings may coincide."""
    both = None if whole.copies is None or things.copies is None else whole.copies & things.copies
    return Marks(things.identity, things.gap, both, whole.text, whole.identity)


def means(every: Marks, chosen: slice = slice(None)) -> Means:
    """Of all pictures, or of those in `chosen`."""
    mean = (None if one is None else float(one[chosen].float().mean()) for one in every)
    return Means(*mean)  # pyright: ignore[reportArgumentType]


def likeness(made: Tensor, real: Tensor) -> Tensor:
    """Mean similarity (n,) of pictures (n, d) to real ones (m, d)."""
    return made @ real.mean(0)


def ceiling(real: Real) -> float | None:
    """Mean similarity of the judging pictures to all other real ones; None where there is one picture alone."""
    pairs, others = _among(real)
    return float(pairs[others].mean()) if bool(others.any()) else None


def kept_limit(real: Real, floor: Tensor) -> float | None:
    """The identity that as many real pictures stay below as pictures of the class word, `floor` (n,), reach.

    None for fewer than 3 real pictures, and where so many would be taken for the other that it says nothing.
    """
    pairs, others = _among(real)
    compared = others.any(0)  # a judging picture that is the only one has no other to be near to
    if int(compared.sum()) < LEAST_PAIRS:
        return None
    own = ((pairs * others).sum(0) / others.sum(0))[compared]  # each real picture's identity, itself left out
    limits = torch.cat((own, floor)).unique()
    missed = (own[:, None] < limits).float().mean(0)
    passed = (floor[:, None] >= limits).float().mean(0)
    best = int((missed - passed).abs().argmin())
    wrong = float(missed[best] + passed[best]) / 2
    return float(limits[best]) if wrong <= MOST_WRONG else None


def _among(real: Real) -> tuple[Tensor, Tensor]:
    """Similarity of the judging pictures to all real ones, they themselves first, and which pairs are of two."""
    first = real.judges
    every = torch.cat((first, real.training)) if len(real.held_out) else first
    pairs = first @ every.T
    return pairs, ~torch.eye(*pairs.shape, dtype=torch.bool)


def closed(identity: float, floor: float, top: float | None) -> float | None:
    """The share of the way from the class word's identity to that of real pictures."""
    return None if top is None or top - floor < LEAST_WAY else (identity - floor) / (top - floor)


def copy_threshold(real: Real) -> float | None:
    """The 99th percentile of similarity between two real pictures; above it a picture is too near to a training one."""
    every = torch.cat(tuple(real))
    pairs = (every @ every.T)[torch.ones(len(every), len(every)).triu(1) > 0]
    return float(pairs.quantile(COPY_PERCENTILE)) if len(pairs) >= LEAST_PAIRS and len(real.training) else None


def gain(ours: Tensor, theirs: Tensor) -> Gain | None:
    """Mean of ours - theirs (n,), picture by picture; None for fewer than 3 pictures."""
    apart = ours - theirs
    if len(apart) < 3:
        return None
    picks = torch.randint(len(apart), (DRAWS, len(apart)), generator=torch.Generator().manual_seed(0))
    low, high = apart[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return Gain(float(apart.mean()), low, high)


def reads_pictures(made: Tensor, texts: Tensor) -> bool:
    """Whether pictures (p, d) are near their own prompts (p, d), and nearer than to the same prompts in another order.

    Two encoders that were not trained together answer by chance. For fewer than 4 prompts every other order must be
    worse; for more, 95 % of random ones (a permutation test).
    """
    count = len(made)
    if count < 2:
        return False
    near, rows = made @ texts.T, torch.arange(count)
    if near.diagonal().mean() <= 0:
        return False
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(count, generator=generator) for _ in range(ORDERS)])
    orders = orders[(orders != rows).any(1)]
    as_good = (near[rows, orders].mean(1) >= near.diagonal().mean()).float().mean()
    return bool(as_good <= (CHANCE if count >= LEAST_PROMPTS else 0.0))
