"""docs/compatibility.md: what stands in the cases that the tests run, written down for people."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from . import pack
from .places import ROOT

FILE = ROOT / "docs" / "compatibility.md"
HEAD = """# What it was tried with

Written by `python dev.py docs` from the cases that the tests run (`tests/comfy/neighbours.py` and `variants.py`):
change those, not this page. Every line is drawn with ComfyUI's own nodes, on tiny models of its own classes with random
weights, and with six concepts at once, one for each way to act. A line holds that

- every concept acted at the sites that are given (*all*: {sites} of {sites} in this model), as its report says;
- with the words the picture differs from the one without; without them it is, bit for bit, what the node draws alone;
- the other node acts as well, or draws what KSampler draws where it should;
- nodes on the MODEL or CLIP may stand before and after Compose Concepts: the pictures are the same, bit for bit.

Where a concept does not act, the report on Compose Concepts says so and why. Random weights tell that things act, not
that pictures are good. Other packs are stood in for by patches of the kind that they use.
"""


def page() -> str:
    neighbours, variants = (import_module(f"{pack.NAME}.tests.comfy.{name}") for name in ("neighbours", "variants"))
    sections = {
        "On the MODEL and the CLIP": neighbours.MODEL,
        "At the prompts": neighbours.PROMPTS,
        "At the sampler": neighbours.SAMPLERS,
    }
    parts = [HEAD.format(sites=neighbours.SITES)]
    parts += [f"## {title}\n\n{_table(neighbours, cases)}\n" for title, cases in sections.items()]
    return "\n".join([*parts, _models(variants)])


def _table(neighbours, cases) -> str:
    rows = [
        (case.name, *(_acted(case.acted.get(word), neighbours.SITES) for word in neighbours.PARTS), case.note)
        for case in cases
    ]
    return _rows(["node", *neighbours.PARTS.values(), ""], rows)


def _acted(sites: int | None, every: int) -> str:
    return "all" if sites is None else f"{sites} of {every}" if sites else "no"


def _models(variants) -> str:
    rows = [(name, variant.prediction) for name, variant in variants.VARIANTS.items()]
    kinds = ", ".join(sorted(kind.__name__ for kind in variants.KINDS))
    return f"""## Models

A concept is learned for one step on each of these, saved, loaded and composed; training and sampling predict the same.

{_rows(["model", "predicts"], rows)}

Of ComfyUI's model classes these are taken: {kinds}.
All others, such as the SDXL refiner, SD 3, Flux and every video model, are refused by name before anything runs, and so
is learning on weights that are packed as in GGUF files.
"""


def _rows(head: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def write() -> None:
    FILE.write_text(page(), encoding="utf-8", newline="\n")
