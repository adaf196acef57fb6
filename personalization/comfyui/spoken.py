"""What woven CLIPs have encoded lately: every phrase by its rows' content, and who wrote which words.

Packs join, cut, move and copy conditionings, or build their dictionaries themselves. Text encoders read what came
before, so a phrase's rows are its own: wherever equal rows arrive, the phrase stands there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..denoiser import Slots
from ..prompt import Mark

KEPT = 1024  # phrases in one text encoder; one of SDXL's has some 10 KB
Rows = tuple[int, ...]


class Phrase(NamedTuple):
    """One occurrence of a word in one encoding: per encoder the rows of its phrase, and which of them are slots."""

    word: str
    concept: str
    weight: float
    rows: Mapping[str, tuple[tuple[int | None, Tensor], ...]]  # encoder -> (slot number or None, (d,))
    plain: bool  # equal to the class word in an ordinary prompt, which must not be taken for it


class Written(NamedTuple):
    """The words that a node wrote in the last prompt in which it ran; `node` is its class and inputs there."""

    prompt: str
    node: Mapping[str, Any]
    words: frozenset[str]


@dataclass
class Memory:
    phrases: OrderedDict[tuple[object, ...], Phrase] = field(default_factory=OrderedDict)
    nodes: dict[str, Written] = field(default_factory=dict)

    def keep(self, phrase: Phrase) -> None:
        content = tuple(row.float().numpy().tobytes() for rows in phrase.rows.values() for _, row in rows)
        key = (phrase.word, phrase.concept, phrase.weight, content)
        self.phrases[key] = phrase
        self.phrases.move_to_end(key)
        while len(self.phrases) > KEPT:
            self.phrases.popitem(last=False)

    def note(self, words: Collection[str]) -> None:
        """`words` were written by the node that runs."""
        context = get_executing_context()
        if context is not None:
            before = self.nodes.get(context.node_id)
            kept = before.words if before and before.prompt == context.prompt_id else frozenset()
            node = get_progress_state().dynprompt.get_node(context.node_id)
            self.nodes[context.node_id] = Written(context.prompt_id, _described(node), kept | frozenset(words))

    def written_by(self, name: str, node: Mapping[str, Any]) -> frozenset[str] | None:
        """The words that a node of a prompt wrote; None when it is not known as it is now."""
        found = self.nodes.get(name)
        return found.words if found and found.node == _described(node) else None

    def find(
        self, arrived: Tensor, spans: Mapping[str, slice], concepts: Collection[str], surely: bool
    ) -> Iterator[Slots]:
        """Every phrase of these concepts (content hashes) in (1, tokens, d), the latest encoding first.

        `surely` leaves out what an ordinary prompt holds as well.
        """
        tokens, taken = arrived[0, :: rows_per_token(arrived)].cpu(), set()
        for phrase in reversed(self.phrases.values()):
            if phrase.concept not in concepts or (surely and phrase.plain):
                continue
            for encoder, rows in phrase.rows.items():
                for slots, category in _places(rows, tokens[:, spans[encoder]]) if encoder in spans else ():
                    if taken.isdisjoint((encoder, row) for row in slots):
                        taken |= {(encoder, row) for row in slots}
                        where = {encoder: slots}, (phrase.weight,), {encoder: category}
                        yield Slots(phrase.word, phrase.concept, *where)


MEMORY = Memory()


def rows_per_token(arrived: Tensor) -> int:
    """2 under CLIP NegPip, a row for keys and one for values, which differ where a weight is negative; else 1."""
    if arrived.shape[1] < 3:
        return 1
    first, second, third = arrived[0, :3]
    twice = torch.equal(first, second) and not torch.equal(first, third)  # all are equal where they were zeroed out
    return 2 if twice else 1


def _described(node: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_type": node["class_type"], "inputs": dict(node["inputs"])}


def phrases_in(
    cond: Tensor,
    marked: Mapping[str, list[tuple[int, Mark]]],
    spans: Mapping[str, slice],
    concepts: Mapping[str, str],
    plain: Collection[str],
) -> Iterator[Phrase]:
    """The phrases of an encoding (1, tokens, d); `concepts` are content hashes by word, none for trained ones."""
    for word, occurrence in sorted({(mark.word, mark.occurrence) for marks in marked.values() for _, mark in marks}):
        own = {
            encoder: [(row, mark) for row, mark in marks if (mark.word, mark.occurrence) == (word, occurrence)]
            for encoder, marks in marked.items()
            if encoder in spans
        }
        for weight, each in _by_weight(own).items():
            if concepts.get(word) and all(row < cond.shape[1] for rows in each.values() for row, _ in rows):
                rows = {key: tuple(_content(cond, row, mark, spans[key]) for row, mark in each[key]) for key in each}
                yield Phrase(word, concepts[word], weight, rows, word in plain)


def _by_weight(own: Mapping[str, list[tuple[int, Mark]]]) -> dict[float, dict[str, list[tuple[int, Mark]]]]:
    """Encoders that read different texts (CLIPTextEncodeSDXL) may have the same occurrence at different weights."""
    grouped: dict[float, dict[str, list[tuple[int, Mark]]]] = {}
    for encoder, rows in own.items():
        if rows:
            grouped.setdefault(rows[0][1].weight, {})[encoder] = rows
    return grouped


def _content(cond: Tensor, row: int, mark: Mark, span: slice) -> tuple[int | None, Tensor]:
    return mark.slot, cond[0, row, span].detach().to("cpu", copy=True)


def _places(rows: tuple[tuple[int | None, Tensor], ...], tokens: Tensor) -> list[tuple[Rows, Rows]]:
    """Row numbers of the slots and of the phrase's own words, at every place where all its rows stand: (tokens, d)."""
    if any(row.shape[0] != tokens.shape[1] for _, row in rows):
        return []
    found = [(slot, (tokens == row.to(tokens)).all(-1).nonzero().flatten().tolist()) for slot, row in rows]
    whole = zip(*(places for _, places in found), strict=False)
    slots = [column for _, column in sorted((slot, i) for i, (slot, _) in enumerate(found) if slot is not None)]
    words = [column for column, (slot, _) in enumerate(found) if slot is None]
    return [(tuple(places[i] for i in slots), tuple(places[i] for i in words)) for places in whole]
