"""`bench sites`: which sites carry a subject, which a style? A concept learned at all of them, kept at a few.

quick learns here with one slot, a row at every site; the table scores it with the rows of one site only, and of all but
one. Nothing is learned for it again. A subject: likeness to held-out pictures and attributes, as in `methods`. A style
that has no name: likeness to other pictures in it, and attributes but for the style. *closed* is the share of the way
from the class word to real pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..personalization.composition import PlacedConcept
from ..personalization.concept import Concept
from ..personalization.dataset import dataset_of
from ..personalization.parts import ContextRows
from ..personalization.pictures import Picture
from ..personalization.recipe import Recipe
from ..personalization.scores import likeness
from ..personalization.sites import Site
from ..playground.judge import load_judge
from ..playground.model import WEIGHTS, load
from ..playground.scores import asked, attributes
from ..playground.world import PROMPTS
from .compose import LOOK, pairs
from .kept import Kept
from .made import drawn, learned_by, learned_subject, of, timed
from .statistics import closed_share
from .table import Table, arguments, fingerprint, print_table
from .wind_tunnel import Case, Sampled, Tunnel, cases

METHOD, SECONDS = "quick", 20.0
INSTANCES, QUICK_INSTANCES = 6, 2
SETTINGS = PROMPTS[:5]  # photographs
NOWHERE, EVERYWHERE = "class word", "all sites"


class Score(NamedTuple):
    likeness: float
    attributes: float


class Bench(ABC):
    """One role's concepts, learned once, and what each is worth where its rows are kept."""

    concepts: Sequence[Concept]

    @abstractmethod
    def __init__(self, tunnel: Tunnel, count: int, world_seed: int, seconds: float) -> None: ...

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(shape.site for shape in self.concepts[0].info.base.sites)

    def row(self, kept: Sequence[Site]) -> dict:
        scored = [self.score(number, at(concept, kept)) for number, concept in enumerate(self.concepts)]
        means = {name: round(float(np.mean([getattr(one, name) for one in scored])), 4) for name in Score._fields}
        return {"sites": [site.key for site in kept], **means, "per_case": [one._asdict() for one in scored]}

    @abstractmethod
    def score(self, number: int, placed: PlacedConcept) -> Score: ...

    @abstractmethod
    def ceiling(self) -> list[float]:
        """The likeness of real pictures after the VAE, case by case."""


class Subjects(Bench):
    def __init__(self, tunnel: Tunnel, count: int, world_seed: int, seconds: float) -> None:
        self.tunnel, self.cases = tunnel, cases(count, world_seed, SETTINGS)
        self.concepts = [learned_subject(one_row(seconds, "subject"), tunnel, case) for case in self.cases]

    def score(self, number: int, placed: PlacedConcept) -> Score:
        case = self.cases[number]
        found = self.tunnel.score(case, drawn(placed, self.tunnel, case))
        return Score(found.identity, found.attributes)

    def ceiling(self) -> list[float]:
        return [self.tunnel.ceiling(case).identity for case in self.cases]


class Styles(Bench):
    def __init__(self, tunnel: Tunnel, count: int, world_seed: int, seconds: float) -> None:
        self.tunnel, self.pairs = tunnel, pairs(count, world_seed)
        datasets = [dataset_of([Picture(f"{i}", one) for i, one in enumerate(pair.training)]) for pair in self.pairs]
        recipe, words = one_row(seconds, "style"), (LOOK, "", "style")
        known = zip(datasets, self.pairs, strict=True)
        self.concepts = [learned_by(recipe, tunnel, dataset, words, pair.case.seed) for dataset, pair in known]

    def score(self, number: int, placed: PlacedConcept) -> Score:
        pair = self.pairs[number]
        sampled = drawn(placed, self.tunnel, pair.case, pair.case.class_word)
        looks = likeness(self.tunnel.judge.style(sampled.images.flatten(0, 1)), self._look(number))
        return Score(float(looks.mean()), self._attributes(pair.case, sampled))

    def _look(self, number: int) -> Tensor:
        return self.tunnel.judge.style(self.tunnel.through(self.pairs[number].real))

    def _attributes(self, case: Case, sampled: Sampled) -> float:
        """But for the style, which the judge has no name for."""
        wanted = [asked(one, case.class_word) for one in sampled.settings for _ in range(sampled.images.shape[1])]
        named = [{head: name for head, name in one.items() if head != "style"} for one in wanted]
        return float(attributes(self.tunnel.judge.attributes(sampled.images.flatten(0, 1)), named).mean())

    def ceiling(self) -> list[float]:
        seen = [self.tunnel.judge.style(self.tunnel.through(pair.training)) for pair in self.pairs]
        return [float(likeness(one, self._look(number)).mean()) for number, one in enumerate(seen)]


def one_row(seconds: float, role: str) -> Recipe:
    return replace(timed(METHOD, seconds, role), slots=1, sites=())


ROLES: dict[str, type[Bench]] = {"subject": Subjects, "style": Styles}


def at(concept: Concept, sites: Sequence[Site]) -> PlacedConcept:
    """The concept with its rows at these sites only; without any it is its class word."""
    learned = [part for part in concept.parts if isinstance(part, ContextRows)] if sites else []
    parts = tuple(ContextRows({site: part.rows[site] for site in sites}) for part in learned)
    return PlacedConcept(replace(concept, parts=parts), strength=1.0 if sites else 0.0)


def placements(sites: Sequence[Site]) -> dict[str, tuple[Site, ...]]:
    """Where the rows are kept, by the names of the table's rows."""
    only = {f"only {site.key}": (site,) for site in sites}
    without = {f"without {site.key}": tuple(other for other in sites if other != site) for site in sites}
    return {NOWHERE: (), EVERYWHERE: tuple(sites), **only, **without}


def measured(bench: Bench) -> dict:
    made = {name: bench.row(kept) for name, kept in placements(bench.sites).items()}
    floor, ceiling = of(made[NOWHERE], "likeness"), bench.ceiling()
    for row in made.values():
        share = closed_share(of(row, "likeness"), floor, ceiling)
        row["closed"], row["ci"] = round(share.mean, 4), [round(share.low, 4), round(share.high, 4)]
    return {"ceiling_per_case": ceiling, "rows": [{"kept": name, **row} for name, row in made.items()]}


def main(argv: list[str]) -> int:
    parser = arguments("sites", learns=True)
    parser.add_argument("--instances", type=int, help="how many of each role")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of learning each")
    wanted = parser.parse_args(argv)
    weights, count = wanted.weights or WEIGHTS, wanted.instances or (QUICK_INSTANCES if wanted.quick else INSTANCES)
    tunnel = Tunnel(load(weights), load_judge("first", weights), 1, Kept(wanted.learned))
    about = {"bench": "sites", "world_seed": wanted.world_seed, "instances": count, "seconds": wanted.seconds}
    table = Table(wanted.json, {**about, "weights": fingerprint(weights)})
    for role, bench in ROLES.items():
        table.once(role, lambda bench=bench: measured(bench(tunnel, count, wanted.world_seed, wanted.seconds)))
        show(role, table.values[role]["rows"])
    return 0


def show(role: str, rows: list[dict]) -> None:
    heads = (role, "closed", "95 %", "likeness", "attributes")
    cells = [
        (
            *(row[name] for name in ("kept", "closed")),
            "{:.2f}..{:.2f}".format(*row["ci"]),
            row["likeness"],
            row["attributes"],
        )
        for row in rows
    ]
    print_table(heads, cells)
