"""Placeholders in a prompt: finding `<mug>`, writing its phrase instead, and knowing where its slots ended up.

The rewrite happens on the string, because BPE would merge `>` with the comma after it. An occurrence becomes a mark
that the host's tokenizer swaps for the phrase's tokens; with u = strength x prompt weight = 0 it becomes the class
word, in place, so that the prompt is the one in which the class word was written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from .composition import Composition, PlacedConcept, spelled
from .denoiser import Slots

SLOT = "[V]"
PLACEHOLDER = re.compile(r"<([^<>\s]+)>")


class Occurrence(NamedTuple):
    """One `<word>` in a prompt, `text[start:end]`, under the prompt weight of its parentheses."""

    placed: PlacedConcept
    start: int
    end: int
    weight: float

    @property
    def u(self) -> float:
        return self.placed.strength * self.weight


class Mark(NamedTuple):
    """What a token of a phrase is: slot number `slot` of an occurrence, or one of the phrase's own words (None)."""

    word: str
    occurrence: int
    slot: int | None
    weight: float = 1.0


class Aside(NamedTuple):
    """What a prompt says of the composition besides the words that act in it."""

    near: Mapping[str, str] = MappingProxyType({})  # {"<mugg>": "<mug>"}
    silent: frozenset[str] = frozenset()  # words that are written, at strength or weight 0

    def __or__(self, other: Aside) -> Aside:
        return Aside({**self.near, **other.near}, self.silent | other.silent)


def aside(text: str, composition: Composition) -> Aside:
    silent = (found.placed.word for found in occurrences(text, composition) if found.u == 0)
    return Aside(near_misses(text, composition), frozenset(silent))


def occurrences(text: str, composition: Composition) -> list[Occurrence]:
    """Every `<word>` of the composition in `text`, whatever its case, from left to right."""
    placed = {one.word: one for one in composition}
    if not placed:
        return []
    matches = [match for match in PLACEHOLDER.finditer(text) if spelled(match[1]) in placed]
    weights = _weights(text, [match.span() for match in matches])
    return [Occurrence(placed[spelled(m[1])], *m.span(), w) for m, w in zip(matches, weights, strict=True)]


def rewrite(text: str, composition: Composition, mark: Callable[[int, PlacedConcept], str]) -> str:
    """`text` with `mark(n, placed)` for the n-th occurrence that acts and the class word for those that do not."""
    written, place, number = "", 0, 0
    for found in occurrences(text, composition):
        info = found.placed.concept.info
        swallows = found.u == 0 or ends_with_class_word(info.phrase, info.class_word)
        before, after = text[place : found.start], _after(text, found.end, info.class_word if swallows else "")
        if found.u == 0:
            written += before + _spaced(written + before, info.class_word, text[after:])
        else:
            written += before + f" {mark(number, found.placed)} "
            number += 1
        place = after
    return written + text[place:]


def pieces(phrase: str) -> list[str | int]:
    """`"[V] mug"` -> `[0, "mug"]`: slot numbers and the words around them."""
    out: list[str | int] = []
    for number, words in enumerate(phrase.split(SLOT)):
        out += ([number - 1] if number else []) + ([words.strip()] if words.strip() else [])
    return out


def ends_with_class_word(phrase: str, class_word: str) -> bool:
    return bool(class_word) and phrase.lower().split()[-len(class_word.split()) :] == class_word.lower().split()


def is_ordinary(phrase: str, class_word: str) -> bool:
    """Whether people may write what it says with the class word in its slots: "watercolor style", never "mug mug".

    A class word of several words stands there as their mean, which no prompt holds.
    """
    words = phrase.replace(SLOT, f" {class_word} ").lower().split()
    return len(class_word.split()) == 1 and all(one != other for one, other in pairwise(words))


def near_misses(text: str, composition: Composition) -> dict[str, str]:
    """What looks like a placeholder but is none, and the word that was probably meant: `{"<mugg>": "<mug>"}`."""
    words = [placed.word for placed in composition]
    found: dict[str, str] = {}
    for written in re.findall(r"<[^<>\n]{1,64}>", text):
        inner = written[1:-1]
        close = difflib.get_close_matches(spelled(inner.strip()), words, 1, 0.7)
        if close and spelled(inner) not in words:
            found[written] = f"<{close[0]}>"
    return found


def slots_of(
    marked: Mapping[str, Sequence[tuple[int, Mark]]], length: int, hashes: Mapping[str, str]
) -> tuple[Slots, ...]:
    """The slots of a prompt from its marked tokens per encoder, (row, mark); rows at `length` and beyond were cut.

    Encoders that read different texts (CLIPTextEncodeSDXL) get entries of their own when their weights differ.
    """
    gathered: dict[tuple[str, tuple[float, ...]], Slots] = {}
    for encoder, tokens in marked.items():
        for word in sorted({mark.word for _, mark in tokens}):
            own = _of_word(word, tokens, length)
            if own.rows:
                before = gathered.get((word, own.weights), Slots(word, hashes.get(word, ""), {}, own.weights))
                rows, category = {**before.rows, encoder: own.rows}, {**before.category, encoder: own.category}
                gathered[word, own.weights] = before._replace(rows=rows, category=category)
    return tuple(gathered.values())


def phrase_rows(marked: Sequence[tuple[int, Mark]], word: str, length: int) -> list[int]:
    """Every row of the word's phrases: slots and the phrase's own words."""
    return [row for row, mark in marked if mark.word == word and row < length]


class _Own(NamedTuple):
    """One word's tokens in one encoder, as in Slots."""

    rows: tuple[int, ...]
    category: tuple[int, ...]
    weights: tuple[float, ...]


def _of_word(word: str, tokens: Sequence[tuple[int, Mark]], length: int) -> _Own:
    own = [(mark.occurrence, mark.slot, row, mark.weight) for row, mark in tokens if _is_slot(mark, word)]
    cut = {occurrence for occurrence, _, row, _ in own if row >= length}
    kept = sorted(entry for entry in own if entry[0] not in cut)
    weights = {occurrence: weight for occurrence, _, _, weight in kept}
    words = [(mark.occurrence, row) for row, mark in tokens if mark.word == word and mark.slot is None]
    category = tuple(row for occurrence, row in sorted(words) if occurrence in weights and row < length)
    return _Own(tuple(row for _, _, row, _ in kept), category, tuple(weights.values()))


def _is_slot(mark: Mark, word: str) -> bool:
    return mark.word == word and mark.slot is not None


def _after(text: str, end: int, class_word: str) -> int:
    """Where the text goes on after an occurrence: behind a class word that stands there already."""
    pattern = r"\s+" + r"\s+".join(map(re.escape, class_word.split())) + r"\b"
    already = re.compile(pattern, re.IGNORECASE).match(text, end) if class_word else None
    return already.end() if already else end


def _spaced(before: str, word: str, after: str) -> str:
    """`word` kept apart from letters that touch it: `a<mug>` reads "a mug"."""
    left = " " if before and before[-1].isalnum() else ""
    return left + word + (" " if after and (after[0].isalnum() or after[0] == "<") else "")


_FIRST = 0xF0000  # a private plane of Unicode: one character stands for one occurrence while parentheses are read


def _weights(text: str, spans: Sequence[tuple[int, int]]) -> list[float]:
    """The prompt weight over each span, by ComfyUI's rules for parentheses (comfy/sd1_clip.py, token_weights)."""
    masked, place = "", 0
    for number, (start, end) in enumerate(spans):
        masked, place = masked + text[place:start] + chr(_FIRST + number), end
    masked = (masked + text[place:]).replace("\\)", "\0\1").replace("\\(", "\0\2")
    found = {
        ord(char) - _FIRST: weight for part, weight in _weighted(masked, 1.0) for char in part if ord(char) >= _FIRST
    }
    return [found.get(number, 1.0) for number in range(len(spans))]


def _weighted(text: str, weight: float) -> list[tuple[str, float]]:
    out: list[tuple[str, float]] = []
    for part in _parenthesised(text):
        if len(part) >= 2 and part[0] == "(" and part[-1] == ")":
            out += _weighted(*_inside(part[1:-1], weight * 1.1))
        else:
            out.append((part, weight))
    return out


def _inside(part: str, weight: float) -> tuple[str, float]:
    colon = part.rfind(":")
    if colon <= 0:
        return part, weight
    try:
        return part[:colon], float(part[colon + 1 :])
    except ValueError:
        return part, weight


def _parenthesised(text: str) -> list[str]:
    """Top-level groups with their parentheses, and what stands between them."""
    parts, current, depth = [], "", 0
    for char in text:
        if char == "(" and depth == 0 and current:
            parts, current = [*parts, current], ""
        current += char
        depth += (char == "(") - (char == ")")
        if char == ")" and depth == 0:
            parts, current = [*parts, current], ""
    return [*parts, current] if current else parts
