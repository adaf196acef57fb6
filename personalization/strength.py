"""Which strength to use: as much of the concept as a prompt can bear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from .scores import Gain, gain

IDENTITY_MARGIN = 0.1  # of what the best strength gains over the class word
TEXT_MARGIN = 0.05  # of the class word's text score
RULE = (
    f"The rule: of the strengths whose text score is at most {TEXT_MARGIN:.0%} below the class word's, the smallest "
    f"that has {1 - IDENTITY_MARGIN:.0%} of the best one's gain in identity."
)


class Rung(NamedTuple):
    """What a strength brings, picture by picture (n,), the same prompts and seeds at every strength.

    `text` is None where it cannot be given.
    """

    strength: float
    identity: Tensor
    text: Tensor | None = None

    @property
    def likeness(self) -> float:
        return float(self.identity.mean())

    @property
    def obedience(self) -> float | None:
        return None if self.text is None else float(self.text.mean())


class Advice(NamedTuple):
    """`strength` is None where none is worth recommending."""

    strength: float | None
    sentence: str


def advised(rungs: Sequence[Rung], own: float = 1.0) -> Advice:
    """By RULE; the first rung is strength 0, the class word.

    Without a text score nobody knows what a strength costs of the prompt: then none above `own`, the file's.
    """
    floor = rungs[0]
    heard = [one for one in rungs if _follows(one, floor, own)]
    best = max(heard, key=lambda one: one.likeness)
    gained, sure = best.likeness - floor.likeness, gain(best.identity, floor.identity)
    if gained <= 0 or (sure is not None and sure.low <= 0):
        limit = f"up to the file's own {own:g} " if floor.obedience is None else "that still follows the prompt "
        where = limit if len(heard) < len(rungs) else ""
        found = f"surely brings it closer than the class word (best {gained:+.3f} at {best.strength:g})"
        return Advice(None, f"No strength {where}{found}: none is recommended. {RULE}")
    enough = next(one for one in heard if one.likeness >= best.likeness - IDENTITY_MARGIN * gained)
    told = (f"Recommended strength: {enough.strength:g}.", _reason(enough, best, floor), *_doubts(enough, sure, rungs))
    return Advice(enough.strength, " ".join((*told, RULE)))


def _follows(one: Rung, floor: Rung, own: float) -> bool:
    if one.obedience is None or floor.obedience is None:
        return one.strength <= own
    return one.obedience >= floor.obedience - TEXT_MARGIN * abs(floor.obedience)


def _reason(enough: Rung, best: Rung, floor: Rung) -> str:
    gained = f"Identity {enough.likeness:.3f}, class word {floor.likeness:.3f}, best {best.likeness:.3f}"
    if enough.obedience is None or floor.obedience is None:
        return (
            f"{gained} at {best.strength:g}; without a text score it is not known how well it still obeys, so nothing "
            "above the file's own strength is recommended."
        )
    return f"{gained} at {best.strength:g}; text {enough.obedience:.3f}, class word {floor.obedience:.3f}."


def _doubts(enough: Rung, sure: Gain | None, rungs: Sequence[Rung]) -> Iterator[str]:
    if sure is None:
        yield "So few pictures per strength may mislead: more prompts or seeds would tell."
    if enough is rungs[-1]:
        yield "It is the highest one tried: a higher one may be better."
