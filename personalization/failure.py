"""report.txt: what can be told of a learning that failed, without a path, a user's name, a caption or a picture."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from .dataset import ConceptDataset
from .doctor import examine
from .learned import Held, Step

RECENT = 50  # steps told
OURS = (ValueError, ArithmeticError, MemoryError, FileNotFoundError)  # raised with a sentence that says what to do
FULL = (errno.ENOSPC, errno.EDQUOT)

_QUOTED = re.compile(r"""(['"])(?:~|[A-Za-z]:)?[\\/][^'"\n]*\1""")
_BARE = re.compile(r"(?<![\w<>/\\.])(?:~|[A-Za-z]:)?[\\/]+[\w.~-][^\s'\"<>|:,;()]*")
_FILE = re.compile(
    r"[^\s'\"(),;]+[\\/][^\s'\"(),;]*\.\w+|[^\s'\"(),;\\/]+\.(?:png|jpe?g|webp|heic|gif|bmp|tiff?|txt)\b"
)


@dataclass(frozen=True)
class Failure:
    """`machine` and `settings` are told as they stand, `names` are people's and hosts' and never told."""

    error: BaseException
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    dataset: ConceptDataset
    steps: Sequence[Step]
    held: Sequence[Held]
    names: Sequence[str]


def sentence_of(error: BaseException, steps: int) -> str:
    """What people read: our own errors say what to do, others where learning was, what they are and what may help."""
    said = " ".join(str(error).split())
    where = f"after step {steps}" if steps else "before its first step"
    again = "queue it again" + (", and it goes on from its last snapshot, if one could be written" if steps else "")
    if isinstance(error, OSError) and error.errno:  # the system's own, which says what happened and no more
        return f"Learning stopped {where}: {_by_the_system(error, said)} and {again}."
    if isinstance(error, OURS) and said:
        return said
    unexpected = f"an unexpected {type(error).__name__}{f': {said}' if said else ''}".removesuffix(".")
    return (
        f"Learning stopped {where} with {unexpected}. What it needs is not known: {again}. Where it stops so a second "
        "time, restart ComfyUI, and then show the report to the maintainers of this pack."
    )


def _by_the_system(error: OSError, said: str) -> str:
    """What happened, what is needed, and the first half of what to do."""
    if error.errno in FULL:
        return (
            f"the disk is full ({error.strerror}). The concept needs room in ComfyUI's output folder. Make room there"
        )
    return f"a file could not be read or written ({said}). It must be there and allowed. Put that right"


def report_of(failure: Failure) -> str:
    sections = {
        "What happened": _chain(failure.error),
        "Versions and device": _listed(failure.machine),
        "Settings": _listed(failure.settings),
        "Pictures": _pictures(failure.dataset),
        f"The last {RECENT} steps (loss, seconds)": [
            f"{s.step}/{s.steps}  {s.loss:.5f}  {s.seconds:.1f}" for s in failure.steps
        ],
        "Held-out checks (1 = nothing learned)": [f"{held.step}  {held.loss:.5f}" for held in failure.held],
    }
    text = "\n\n".join(
        "\n".join((title, *(f"  {line}" for line in lines or ["none"]))) for title, lines in sections.items()
    )
    return scrubbed(f"Concept Loom: a learning that failed\n\n{text}\n", failure.dataset, failure.names)


def scrubbed(text: str, dataset: ConceptDataset, names: Iterable[str]) -> str:
    """`text` without paths, names of pictures, captions and `names`."""
    for number, picture in enumerate(dataset.pictures, 1):
        for private, told in ((picture.caption, "<caption>"), (picture.name, f"picture {number}")):
            text = text.replace(private, told) if private else text
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text, flags=re.IGNORECASE)
    return _FILE.sub("<file>", _BARE.sub("<path>", _QUOTED.sub("<path>", text)))


def _chain(error: BaseException | None) -> list[str]:
    lines: list[str] = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines += [f"{type(error).__name__}: {' '.join(str(error).split())}"]
        lines += [f"  in {frame.name}, {PurePath(frame.filename).stem}, line {frame.lineno}" for frame in frames]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return lines


def _listed(values: Mapping[str, object]) -> list[str]:
    return [f"{name}: {value}" for name, value in values.items()]


def _pictures(dataset: ConceptDataset) -> list[str]:
    sizes = [f"picture {number}: {one.size[1]} x {one.size[0]}" for number, one in enumerate(dataset.pictures, 1)]
    held = f"{len(dataset.pictures)} pictures, {len(dataset.held_out)} held out"
    return [held, *sizes, *(finding.sentence for finding in examine(dataset))]
