"""A benchmark's result: written to its JSON file after every row, found there again by a restart, printed as tables."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Cell = str | float | int | None


class Table:
    """`about` is what the numbers depend on; a file about something else is begun anew."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.path, self.values = path, {"about": json.loads(json.dumps(about))}
        if path and path.exists():
            known = json.loads(path.read_text())
            self.values = known if known.get("about") == self.values["about"] else self.values

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The value under that key, made only if it is not there yet."""
        if key not in self.values:
            self.values[key] = make()
            self.write()
        return self.values[key]

    def entry(self, group: str, name: str, make: Callable[[], Any]) -> None:
        """The value of that name among those of a group, made only if it is not there yet."""
        values = self.values.setdefault(group, {})
        if name not in values:
            values[name] = make()
            self.write()

    def row(
        self, name: str, make: Callable[[], dict[str, Any]], column: str = "method", recipe: str = ""
    ) -> dict[str, Any]:
        """The row of that name, made only if it is not there yet, or was made by another recipe."""
        known = self._row(name, column)
        if known is not None and self.has(name, column, recipe):
            return known
        return self._put({column: name, **({"recipe": recipe} if recipe else {}), **make()}, column)

    def has(self, name: str, column: str = "method", recipe: str = "") -> bool:
        """Whether `row` would find that row."""
        known = self._row(name, column)
        return known is not None and known.get("recipe", "") == recipe

    def join(self, other: dict[str, Any], name: str, column: str = "method") -> None:
        """Takes over another table's row of that name, and the entries of its groups that this one lacks."""
        for row in other.get("rows", ()):
            if row[column] == name:
                self._put(row, column)
        for group, entries in other.items():
            if isinstance(entries, dict):
                self.values[group] = {**entries, **self.values.get(group, {})}
        self.write()

    def sort(self, names: Sequence[str], column: str = "method") -> None:
        """The rows in the order of their names; those that are not among these stay behind them."""
        place = {name: number for number, name in enumerate(names)}
        self.values.get("rows", []).sort(key=lambda row: place.get(row[column], len(place)))

    def _row(self, name: str, column: str) -> dict[str, Any] | None:
        return next((row for row in self.values.get("rows", ()) if row[column] == name), None)

    def _put(self, row: dict[str, Any], column: str) -> dict[str, Any]:
        rows, known = self.values.setdefault("rows", []), self._row(row[column], column)
        at = rows.index(known) if known else len(rows)
        rows[at : at + 1] = [row]
        self.write()
        return row

    def write(self) -> None:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.values, indent=1) + "\n")
            part.replace(self.path)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """The first column is words, all others are numbers."""
    cells = [list(heads), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    print(flush=True)


def _text(cell: Cell) -> str:
    return "-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell)


class _PlaygroundOnly(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        parser.error(
            f"--checkpoint is {values}; {parser.prog} scores pictures of the playground's own world, whose truth is "
            "known, and needs its model. Leave it out; `bench step` and `bench overhead` measure a checkpoint's speed "
            "and memory, `demo --checkpoint` its pictures."
        )


def arguments(name: str, any_checkpoint: bool = False, learns: bool = False) -> argparse.ArgumentParser:
    """What every benchmark takes; `any_checkpoint` where it can measure the user's own, `learns` where it keeps."""
    parser = argparse.ArgumentParser(prog=f"bench {name}")
    parser.add_argument("--json", type=Path, help="where the result goes; a restart goes on from what is there")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--world-seed", type=int, default=0, help="another seed draws other instances and scenes")
    action, wanted = (
        ("store", "an SD 1.5 or SDXL checkpoint") if any_checkpoint else (_PlaygroundOnly, argparse.SUPPRESS)
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", action=action, help=wanted)
    parser.add_argument("--weights", type=Path, help="a folder with the playground's weights, by default the pack's")
    if learns:
        parser.add_argument(
            "--learned", type=Path, metavar="FOLDER", help="keeps what it learns there, and finds it there again"
        )
    return parser


def fingerprint(folder: Path) -> str:
    """Of the playground's weights: what figures belong to."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=6).hexdigest()
