"""The scorecard of a concept: its scores per prompt and overall, as a table, as data and in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .asked import Asked
from .scores import (
    LEAST_PAIRS,
    LEAST_WAY,
    Gain,
    Marks,
    Means,
    Real,
    Surroundings,
    ceiling,
    closed,
    gain,
    kept_limit,
    marks,
    means,
    of_things,
)

LIMITS = (
    "What this cannot tell: whether a person would accept the likeness. Numbers compare only under the same encoder, "
    "prompts and real pictures, and few pictures tell little."
)
WHOLE = (
    "The image encoder sees whole pictures, so a background or style like that of the real pictures raises identity "
    "too."
)
CUT = (
    "Identity, closed and gap compare the thing, cut out by the dataset's masks or where the model looks for the class "
    "word; a cut that takes in what stands beside it counts that too. Whole compares whole pictures, backgrounds and "
    "all. A copy is too near in both."
)
COLUMNS = ("identity", "closed", "kept", "gap", "leak", "copies", "text", "whole")
NAME = 44


class Line(NamedTuple):
    """Means of one group of pictures. A score that cannot be given is None."""

    name: str
    identity: float | None = None
    closed: float | None = None
    kept: float | None = None
    gap: float | None = None
    leak: float | None = None
    copies: float | None = None
    text: float | None = None
    whole: float | None = None


class Drawn(NamedTuple):
    """Unit vectors (prompts * seeds, d), seeds fastest, of the same prompts and seeds with both words."""

    concept: Tensor
    plain: Tensor
    texts: Tensor | None


class Vectors(NamedTuple):
    """The same pictures as one way of looking sees them: whole, or the things cut out of them."""

    drawn: Drawn
    real: Real


@dataclass(frozen=True)
class Scorecard:
    """`concept` and `plain` are None without an image encoder; `withheld` says why a score is not given."""

    word: str
    class_word: str
    prompts: Sequence[Asked]
    seeds: int
    real: Real | None
    concept: Marks | None
    plain: Marks | None
    ceiling: float | None
    withheld: Mapping[str, str]

    def line(self, number: int) -> Line:
        """The concept's scores for one prompt."""
        chosen = slice(number * self.seeds, (number + 1) * self.seeds)
        return self._line(self.prompts[number].text, chosen)

    @property
    def top(self) -> float | None:
        """The ceiling, where the floor is clearly below it."""
        return None if "closed" in self.withheld else self.ceiling

    def overall(self) -> tuple[Line, ...]:
        """Class word, concept and real pictures."""
        if self.plain is None or self.concept is None:
            return ()
        top = Line("real pictures", self.ceiling, None if self.top is None else 1.0)
        floor = _scored(
            f"class word: {self.class_word or 'none'}", means(self.plain), None if self.top is None else 0.0
        )
        return floor, self._line(f"<{self.word}>"), top

    def gain(self) -> Gain | None:
        """In identity over the class word."""
        return gain(self.concept.identity, self.plain.identity) if self.concept and self.plain else None

    def table(self) -> str:
        return "\n".join((*self._rows(), "", *self.sentences()))

    def sentences(self) -> tuple[str, ...]:
        how = () if self.concept is None else (WHOLE if self.concept.whole is None else CUT,)
        return (*self._verdicts(), *dict.fromkeys(self.withheld.values()), *how, LIMITS)

    def data(self) -> dict[str, object]:
        """JSON-ready."""
        gained = self.gain()
        return {
            "word": self.word,
            "class_word": self.class_word,
            "seeds": self.seeds,
            "overall": [line._asdict() for line in self.overall()],
            "gain": None if gained is None else gained._asdict(),
            "prompts": [
                {"prompt": one.text, "without_placeholder": one.plain, **_numbers(self.line(number))}
                for number, one in enumerate(self.prompts)
            ],
            "withheld": dict(self.withheld),
        }

    def caption(self, number: int, learned: bool) -> tuple[str, str]:
        """Scores of one picture, and a warning."""
        chosen = self.concept if learned else self.plain
        if chosen is None:
            return "", ""
        one = means(chosen, slice(number, number + 1))
        text = "" if one.text is None else f", text {one.text:.3f}"
        return f"identity {one.identity:.3f}{text}", "copy alarm" if one.copies else ""

    def _line(self, name: str, chosen: slice = slice(None)) -> Line:
        if self.concept is None or self.plain is None:
            return Line(name)
        ours, floor = means(self.concept, chosen), means(self.plain, chosen)
        return _scored(name, ours, closed(ours.identity, floor.identity, self.top))

    def _rows(self) -> Iterator[str]:
        yield f"<{self.word}>: {_count(len(self.prompts), 'prompt')} x {_count(self.seeds, 'seed')}{self._against()}"
        if self.concept is not None:
            yield _cells("", COLUMNS)
            lines = [*self.overall(), *(self.line(number) for number in range(len(self.prompts)))]
            yield from (_cells(line.name, [_told(value) for value in line[1:]]) for line in lines)

    def _against(self) -> str:
        if self.real is None:
            return ""
        kind = "held-out" if len(self.real.held_out) else "training"
        return f", against {_count(len(self.real.judges), f'{kind} picture')}"

    def _verdicts(self) -> Iterator[str]:
        if self.concept is None or self.plain is None:
            return
        floor, ours, top = self.overall()
        yield f"{_of('Identity', ours.identity, floor.identity)}, real pictures {_told(top.identity)}."
        if self.concept.kept is not None and self.plain.kept is not None:
            yield _recognised(self.concept.kept, self.plain.kept)
        if ours.text is not None:
            yield f"{_of('Text', ours.text, floor.text)}."
        gained = self.gain()
        if gained is not None:
            span = f"{gained.low:+.3f}..{gained.high:+.3f}"
            yield f"Identity over the class word: {gained.mean:+.3f} ({span}), {_so(gained)}."
        if self.concept.gap is not None and self.plain.gap is not None:
            nearer = f"{ours.gap:+.3f}, the class word by {floor.gap:+.3f}"
            yield f"Nearer to training than to held-out pictures by {nearer}."
        if self.concept.leak is not None and self.plain.leak is not None:
            yield _leaking(gain(self.concept.leak, self.plain.leak))
        if self.concept.copies is not None and self.plain.copies is not None:
            yield _alarm(self.concept.copies, self.plain.copies)


def scorecard(
    word: str,
    class_word: str,
    prompts: Sequence[Asked],
    whole: Vectors,
    withheld: Mapping[str, str],
    things: Vectors | None = None,
    beside: Surroundings | None = None,
) -> Scorecard:
    """`withheld` holds what the caller cannot give; the rest is added here. `things` decide where they are given."""
    concept, plain = _marked(whole)
    real = whole.real
    if things is not None:
        real = things.real
        concept, plain = map(of_things, (concept, plain), _marked(things))
    limit = kept_limit(real, plain.identity)
    if limit is not None:
        concept, plain = (one._replace(kept=one.identity >= limit) for one in (concept, plain))
    if beside is not None:
        concept, plain = concept._replace(leak=beside.leak), plain._replace(leak=torch.zeros_like(beside.leak))
    top, floor = ceiling(real), float(plain.identity.mean())
    reasons = {**_reasons(real, concept, floor, top), **withheld}
    each = len(whole.drawn.plain) // len(prompts)
    return Scorecard(word, class_word, prompts, each, real, concept, plain, top, reasons)


def _marked(vectors: Vectors) -> tuple[Marks, Marks]:
    drawn, real = vectors
    return marks(drawn.concept, real, drawn.texts), marks(drawn.plain, real, drawn.texts)


def unscored(word: str, class_word: str, prompts: Sequence[Asked], seeds: int, reason: str) -> Scorecard:
    return Scorecard(word, class_word, prompts, seeds, None, None, None, None, dict.fromkeys(COLUMNS, reason))


def _reasons(real: Real, concept: Marks, floor: float, top: float | None) -> dict[str, str]:
    found = {}
    if not len(real.held_out):
        found["gap"] = (
            "Nothing was held out: overfitting cannot be judged, and identity is against the pictures that it was "
            "learned from. Give Concept Dataset 8 pictures or more, or set its holdout to 1 (which learns from one "
            "picture less), and learn it again."
        )
    if concept.kept is None:
        found["kept"] = (
            "There are too few real pictures, or they and the class word's overlap too much for this image encoder: in "
            "how many pictures it is kept cannot be told. Add real pictures, or connect another CLIP_VISION."
        )
    if concept.copies is None and len(real.training):
        found["copies"] = (
            f"Fewer than {LEAST_PAIRS} pairs of real pictures: what a copy is cannot be told. Add real pictures."
        )
    if top is None:
        found["closed"] = (
            "There is one real picture alone: how near real pictures come to each other is not known. Add a second one."
        )
    elif top - floor < LEAST_WAY:
        found["closed"] = (
            f"Real pictures ({top:.3f}) are no nearer to each other than the class word comes ({floor:.3f}): this "
            "image encoder cannot tell the thing from its class, or the pictures differ too much. Closed cannot be "
            "given. Connect another image encoder, such as DINO, or add pictures."
        )
    return found


def _scored(name: str, mean: Means, share: float | None) -> Line:
    return Line(name, mean.identity, share, mean.kept, mean.gap, mean.leak, mean.copies, mean.text, mean.whole)


def _numbers(line: Line) -> dict[str, object]:
    return {key: value for key, value in line._asdict().items() if key != "name"}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _of(score: str, ours: float | None, floor: float | None) -> str:
    return f"{score} {_told(ours)}, class word {_told(floor)}"


def _cells(name: str, values: Sequence[str]) -> str:
    short = name if len(name) <= NAME else f"{name[: NAME - 3]}..."
    return f"{short:<{NAME}}" + "".join(f"{value:>10}" for value in values)


def _so(gained: Gain) -> str:
    if gained.low > 0:
        return "so something of it was learned"
    return "so it is worse than the class word" if gained.high < 0 else "so it cannot be told from the class word"


def _recognised(ours: Tensor, floor: Tensor) -> str:
    count = f"Kept in {int(ours.sum())} of {len(ours)} pictures, class word {int(floor.sum())}"
    return f"{count}: nearer to the real ones than the limit that best tells these from the class word's."


def _leaking(gained: Gain | None) -> str:
    if gained is None:
        return "Too few pictures to tell whether what surrounded it in training comes along."
    told = "what surrounded it in training comes along" if gained.low > 0 else "nothing else is seen to come along"
    span = f"{gained.mean:+.3f} ({gained.low:+.3f}..{gained.high:+.3f})"
    return f"Surroundings nearer to the training pictures' than the class word's by {span}, so {told}."


def _alarm(ours: Tensor, floor: Tensor) -> str:
    rings = f"Copy alarm: {int(ours.sum())} of {len(ours)} pictures, class word {int(floor.sum())}"
    if ours.any() and ours.sum() <= floor.sum():
        return f"{rings}; it rings without the concept too, so it says nothing here."
    return f"{rings} (nearer to a training picture than 99 % of real pairs are to each other)."
