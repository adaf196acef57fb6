"""How well a judge judges: on real renderings of the split "bench", after a round trip through the VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..playground.judge import ATTRIBUTES, Judge, visible
from ..playground.world import (
    FACTORS,
    NAMED_STYLES,
    Instance,
    Scene,
    draw_instance,
    draw_scene,
    draw_style,
    render,
    truth,
    vary,
)
from .statistics import auc, equal_error, spearman

Through = Callable[[Tensor], Tensor]  # uint8 (n, h, w, 3) to the same, through the VAE
SPLIT = "bench"
NAMED = ("photo", *NAMED_STYLES)


class Sizes(NamedTuple):
    scenes: int = 1000
    instances: int = 240  # half of them mates: another instance of the same class
    views: int = 6
    styles: int = 100
    pairs: int = 100  # per factor


QUICK = Sizes(300, 80, 4, 40, 40)


class Figures(NamedTuple):
    attributes: dict[str, float]
    styled_attributes: dict[str, float]  # style: share right of all that can be told in it
    identity_eer: float
    identity_threshold: float
    styled_identity_eer: float  # one picture of the pair in a named style
    styled_identity_threshold: float
    style_eer: float
    style_threshold: float
    factors: dict[str, float]


def figures(judge: Judge, through: Through, sizes: Sizes, seed: int) -> Figures:
    attributes, styled = attribute_figures(judge, through, sizes, np.random.default_rng([seed, 1]))
    photos, styles = identity_pairs(judge, through, sizes, np.random.default_rng([seed, 2]))
    identity, style = equal_error(*photos), equal_error(*style_pairs(judge, through, sizes, seed))
    factors = {name: factor_auc(judge, through, name, sizes, seed) for name in FACTORS}
    return Figures(
        attributes, styled, *identity, *equal_error(*styles), *style, {k: round(v, 4) for k, v in factors.items()}
    )


def pictures(scenes: list[Scene], through: Through) -> Tensor:
    return through(torch.from_numpy(np.stack([render(scene).image for scene in scenes])))


def attribute_figures(judge: Judge, through: Through, sizes: Sizes, rng: np.random.Generator) -> tuple[dict, dict]:
    """Share of right answers by attribute and by style: photographs and named styles, as prompts can ask for."""
    scenes = [draw_scene(rng, style=str(rng.choice(NAMED)), split=SPLIT) for _ in range(sizes.scenes // 2)]
    scenes += [draw_scene(rng, style="photo", split=SPLIT) for _ in range(sizes.scenes - len(scenes))]
    answers = judge.attributes(pictures(scenes, through))
    right: dict[str, list[bool]] = {}
    styled: dict[str, list[bool]] = {}
    for i, scene in enumerate(scenes):
        for head, name in visible(truth(scene)).items():
            right.setdefault(head, []).append(answers[head][i] == name)
            styled.setdefault(scene.style_name, []).append(right[head][-1])
    return ({k: float(np.mean(v)) for k, v in part.items()} for part in (right, styled))  # type: ignore[return-value]


def mean_attribute(figures: Figures) -> float:
    return float(np.mean([figures.attributes[name] for name in ATTRIBUTES]))


def identity_pairs(judge: Judge, through: Through, sizes: Sizes, rng: np.random.Generator) -> tuple[tuple, tuple]:
    """(same, other) similarities of photographs, and of photographs with pictures in named styles.

    "Other" is another instance of the same class, or of any class, half and half.
    """
    firsts = [draw_instance(rng, split=SPLIT) for _ in range(sizes.instances // 2)]
    instances = firsts + [draw_instance(rng, one.class_name, SPLIT) for one in firsts]
    photo = _embedded(judge, through, instances, sizes.views, "photo", rng)  # (instances, views, d)
    styled = _embedded(judge, through, instances, sizes.views, "named", rng)
    half = len(firsts)
    mates = torch.arange(len(instances)).roll(half)
    strangers = torch.arange(len(instances)).roll(1)
    apart = ~torch.eye(sizes.views, dtype=torch.bool)

    def between(one: Tensor, other: Tensor) -> np.ndarray:
        return (one @ other.transpose(1, 2))[:, apart].flatten().numpy()

    def pairs(part: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return between(photo, part), np.concatenate([between(photo, part[mates]), between(photo, part[strangers])])

    return pairs(photo), pairs(styled)


def _embedded(
    judge: Judge, through: Through, instances: list[Instance], views: int, style: str, rng: np.random.Generator
) -> Tensor:
    scenes = [draw_scene(rng, subject=one, style=style, split=SPLIT) for one in instances for _ in range(views)]
    return judge.identity(pictures(scenes, through)).unflatten(0, (len(instances), views))


def style_pairs(judge: Judge, through: Through, sizes: Sizes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of different scenes in one unseen unnamed style, and in two."""
    rng, views = np.random.default_rng([seed, 3]), 4
    styles = [style for _ in range(sizes.styles) for style in [draw_style(rng, SPLIT)] * views]
    z = judge.style(pictures([draw_scene(rng, style=style, split=SPLIT) for style in styles], through))
    labels = torch.arange(len(styles)) // views
    same = labels[:, None] == labels
    likeness = z @ z.T
    return likeness[same & ~torch.eye(len(styles), dtype=torch.bool)].numpy(), likeness[~same].numpy()


def factor_auc(judge: Judge, through: Through, factor: str, sizes: Sizes, seed: int) -> float:
    """Two photographs of one instance against one of it and one of an instance that differs in that factor only."""
    rng = np.random.default_rng([seed, 4, FACTORS.index(factor)])
    instances = [draw_instance(rng, split=SPLIT) for _ in range(sizes.pairs)]
    varied = [vary(instance, factor, rng) for instance in instances]
    one, two = (_embedded(judge, through, instances, 3, "photo", rng) for _ in range(2))
    other = _embedded(judge, through, varied, 3, "photo", rng)
    return auc((one @ two.transpose(1, 2)).flatten().numpy(), (one @ other.transpose(1, 2)).flatten().numpy())


def same_order(one: Judge, other: Judge, through: Through, sizes: Sizes, seed: int) -> float:
    """Rank correlation of two judges' similarities over pairs of photographs that differ in 0 to all factors.

    It stands for what methods do: come nearer to an instance, factor by factor.
    """
    rng = np.random.default_rng([seed, 5])
    instances = [draw_instance(rng, split=SPLIT) for _ in range(2 * sizes.pairs)]
    others = [_altered(instance, int(rng.integers(len(FACTORS) + 1)), rng) for instance in instances]
    sides = [
        pictures([draw_scene(rng, subject=subject, style="photo", split=SPLIT) for subject in side], through)
        for side in (instances, others)
    ]
    likeness = [(judge.identity(sides[0]) * judge.identity(sides[1])).sum(1).numpy() for judge in (one, other)]
    return spearman(*likeness)


def _altered(instance: Instance, count: int, rng: np.random.Generator) -> Instance:
    for factor in rng.permutation(FACTORS)[:count]:
        instance = vary(instance, str(factor), rng)
    return instance
