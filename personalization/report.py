"""What became of each composed concept in one sampling: where it acted or, in one sentence, why it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .composition import Composition, PlacedConcept
from .sites import Site


@dataclass
class Run:
    """What one sampling has seen so far, in words and sites; nothing here waits for the device."""

    steps_inside: Mapping[str, int]  # word -> steps of the schedule inside its window
    acted: dict[str, set[Site]] = field(default_factory=dict)
    placeless: dict[str, set[Site]] = field(default_factory=dict)  # sites at which a region could not be honoured
    encoded: dict[str, str] = field(default_factory=dict)  # word -> content hash, as the CLIP knows it
    written: set[str] = field(default_factory=set)  # words that stand in a conditioning that arrived
    lost: set[str] = field(default_factory=set)  # ... whose rows a node has changed since
    woven: bool = False  # a conditioning of a woven CLIP arrived

    def note(self, what: str, word: str, site: Site) -> None:
        """`what` is "acted" or "placeless"."""
        getattr(self, what).setdefault(word, set()).add(site)


@dataclass(frozen=True)
class Report:
    """One concept in one sampling: at how many of its sites it acted, and one sentence for people."""

    word: str
    acted: int
    sites: int
    cause: str  # "" when it acted; else "clip", "versions", "word", "rows", "strength", "window", "model" or "site"
    sentence: str


def reports(composition: Composition, run: Run, sites: frozenset[Site]) -> tuple[Report, ...]:
    return tuple(_report(placed, run, sites) for placed in composition)


def _report(placed: PlacedConcept, run: Run, sites: frozenset[Site]) -> Report:
    word, own = placed.word, {site for part in placed.concept.parts for site in part.sites} & sites
    acted = len(run.acted.get(word, ()))
    cause = _cause(placed, run, own)
    sentence = _did(word, acted, len(own), len(run.placeless.get(word, ()))) if not cause else _WHY[cause]
    return Report(word, acted, len(own), cause, sentence.format(word=f"<{word}>"))


def _cause(placed: PlacedConcept, run: Run, own: set[Site]) -> str:
    word = placed.word
    if run.acted.get(word) and run.steps_inside.get(word, 1):
        return "" if run.encoded.get(word) in ("", placed.concept.hash) else "versions"
    if not run.woven or word not in run.encoded:
        return "clip"
    if word not in run.written:
        return "strength" if placed.strength == 0 else "word"
    if word in run.lost:
        return "rows"
    if not placed.concept.parts:
        return ""
    if not run.steps_inside.get(word, 1):
        return "window"
    return "model" if not own else "site"


def _did(word: str, acted: int, sites: int, placeless: int) -> str:
    if not sites:
        return "{word} acted through its embedding; it has no part in the denoiser."
    did = f"{{word}} acted at {acted} of {sites} sites."
    return f"{did} At {placeless} its region could not hold: another pack owns them." if placeless else did


_WHY = {
    "clip": "{word} did not act: no conditioning came from a CLIP that knows it. Connect Compose's CLIP to the prompt.",
    "versions": "{word} acted, but CLIP and MODEL hold different concepts of that name. Take both from one Compose.",
    "word": "{word} did not act: it stands in no prompt of this sampling. Write {word} where it should appear.",
    "rows": "{word} did not act: a node has mixed or changed its rows of the conditioning (Concat, Average, Zero Out). "
    "Connect the prompt without it.",
    "strength": "{word} did not act: its strength is 0, so the prompt holds its class word. Raise the strength.",
    "window": "{word} did not act: no step of this sampling lies between its start and end. Widen the window.",
    "model": "{word} did not act: this model has none of the sites that it was learned at. Load the model it is for.",
    "site": "{word} did not act: its sites never ran with its patch; another pack replaces them. Remove that patch.",
}
