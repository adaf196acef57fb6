"""What became of each composed concept in one sampling: where it acted or, in one sentence, why it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .composition import Composition, PlacedConcept
from .prompt import Aside
from .sites import Site


@dataclass
class Run:
    """What one sampling has seen so far, in words and sites; nothing here waits for the device."""

    steps_inside: Mapping[str, int] = field(default_factory=dict)  # word -> steps of the schedule inside its window
    acted: dict[str, set[Site]] = field(default_factory=dict)
    merged: Mapping[str, set[Site]] = field(default_factory=dict)  # sites whose weights hold a word's low-rank layers
    placeless: dict[str, set[Site]] = field(default_factory=dict)  # sites whose attention another pack owns
    jumbled: set[str] = field(default_factory=set)  # words that another pack's batches left without samples to act in
    known: set[str] = field(default_factory=set)  # words whose concepts a CLIP that was heard knows too
    strangers: set[str] = field(default_factory=set)  # ... words that such a CLIP has for other concepts
    written: set[str] = field(default_factory=set)  # words that stand in a conditioning that arrived
    reached: set[str] = field(default_factory=set)  # ... with which the model was called
    left_out: set[str] = field(default_factory=set)  # words that stand only in a prompt that never arrived
    lost: set[str] = field(default_factory=set)  # words whose rows a node has changed
    frames: dict[str, set[int]] = field(default_factory=dict)  # word -> frames of an animation with it
    animated: set[int] = field(default_factory=set)  # ... and all of its frames
    aside: Aside = Aside()
    spoken: frozenset[str] = frozenset()  # words that the nodes behind these conditionings wrote
    changers: tuple[str, ...] = ()  # nodes on the way that may change a conditioning
    unwired: str = ""  # the node that drew with a MODEL on which nothing is composed
    idle: str = ""  # the node that Compose's MODEL leads to, and that took no step with it

    def note(self, what: str, word: str, site: Site) -> None:
        """`what` is "acted" or "placeless"."""
        getattr(self, what).setdefault(word, set()).add(site)


@dataclass(frozen=True)
class Report:
    """One concept in one sampling: at how many of its sites it acted, and one sentence for people.

    Layers that are merged into the weights act in every conditioning: `acted` counts them even where the word was not
    spoken, and `cause` then says why the rest of the concept was silent.
    """

    word: str
    acted: int
    sites: int
    cause: str  # "" when spoken and acting; else a key of _WHY
    sentence: str

    @property
    def warns(self) -> bool:
        """Whether something is wrong: strength 0 is what was asked for."""
        return self.cause not in ("", "strength")


def reports(composition: Composition, run: Run, sites: frozenset[Site]) -> tuple[Report, ...]:
    return tuple(_report(placed, run, sites) for placed in composition)


def _report(placed: PlacedConcept, run: Run, sites: frozenset[Site]) -> Report:
    word, own = placed.word, {site for part in placed.concept.parts for site in part.sites} & sites
    merged = len(own & run.merged.get(word, set()))
    acted = len(own & (run.acted.get(word, set()) | run.merged.get(word, set())))
    cause = _cause(placed, run)
    sentence = _did(word, acted, len(own), len(run.placeless.get(word, ()))) if not cause else _WHY[cause]
    not_spoken = _UNSPOKEN.format(merged=merged, sites=len(own)) if merged else "did not act"
    said = sentence.format(word=f"<{word}>", failed=not_spoken, node=run.unwired or run.idle, **_of(word, run))
    return Report(word, merged if cause else acted, len(own), cause, said + _besides(word, run, cause))


def _cause(placed: PlacedConcept, run: Run) -> str:
    word = placed.word
    if placed.strength == 0:
        return "strength"
    if (run.unwired or run.idle) and word in run.spoken:
        return "model" if run.unwired else "steps"
    if word not in run.reached:
        return "unused" if word in run.written else _unwritten(word, run)
    if not placed.concept.parts:
        return ""
    if not run.steps_inside.get(word, 1):
        return "window"
    if run.acted.get(word) or run.merged.get(word):
        return ""
    return "batch" if word in run.jumbled else "site"


def _unwritten(word: str, run: Run) -> str:
    if word in run.left_out:
        return "guidance"
    if word in run.strangers:
        return "versions"
    if word in run.lost | run.spoken:
        return "rows"
    if word in run.aside.silent:
        return "strength"
    return "word" if word in run.known else "clip"


def _did(word: str, acted: int, sites: int, placeless: int) -> str:
    if not sites:
        return "{word} acted through its embedding; it has no part in the denoiser."
    did = f"{{word}} acted at {acted} of {sites} sites."
    return (
        f"{did} At {placeless} of them another pack owns the attention, so it could not act or keep to its region "
        "there: take that pack's node out where it should."
        if placeless
        else did
    )


def _of(word: str, run: Run) -> dict[str, str]:
    names = " or ".join(run.changers) or "a node on the way (Concat, Average, Zero Out)"
    near = [written for written, meant in run.aside.near.items() if meant == f"<{word}>"]
    return {"changer": names, "near": f", but {' and '.join(near)} does" if near else ""}


def _besides(word: str, run: Run, cause: str) -> str:
    """What is worth a sentence more where the concept did act."""
    if cause:
        return ""
    near = [written for written, meant in run.aside.near.items() if meant == f"<{word}>"]
    missed = f" {' and '.join(near)} is no concept's word; write <{word}>." if near else ""
    lost = " One of its prompts lost it: a node has changed its rows." if word in run.lost else ""
    held, every = len(run.frames.get(word, run.animated)), len(run.animated)
    some = f" It stood in {held} of {every} frames; one that is mixed of two prompts holds no word."
    some = some if held < every else ""
    return missed + lost + some


_UNSPOKEN = "acted only through its merged layers, at {merged} of {sites} sites and in every prompt"

_WHY = {
    "clip": "{word} {failed}: no conditioning came from a CLIP that knows it. Connect Compose's CLIP to the prompt.",
    "model": "{word} {failed}: {node} draws with a MODEL that is not Compose's. Connect Compose's MODEL to it.",
    "steps": "{word} {failed}: {node} took no step with Compose's MODEL. Its denoise or its steps are 0, or a node in "
    "between drops the MODEL's patches: raise them, or take that node out.",
    "versions": "{word} {failed}: CLIP and MODEL hold different concepts of that name. Take both from one Compose.",
    "word": "{word} {failed}: it stands in no prompt of this sampling{near}. Write {word} where it should appear.",
    "rows": "{word} {failed}: {changer} has mixed or changed its rows of the conditioning. "
    "Connect the prompt without it.",
    "guidance": "{word} {failed}: it stands only in a prompt that this sampling left out; at cfg 1 that is the "
    "negative. Raise cfg, or write {word} in the positive prompt.",
    "unused": "{word} {failed}: no step of this sampling used the prompt that it stands in. Widen the range of steps "
    "of that prompt, or raise denoise.",
    "strength": "{word} {failed}: its strength is 0, so the prompt holds its class word. Raise the strength.",
    "window": "{word} {failed}: no step of this sampling lies between its start and end. Widen the window.",
    "batch": "{word} {failed}: another pack gave the model a batch that is no multiple of the sampler's, and which "
    "samples are its own cannot be told. Remove that pack's node.",
    "site": "{word} {failed}: its sites never ran with its patch; another pack replaces them. Remove that patch.",
}
