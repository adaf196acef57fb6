"""Placeholders as tokens: one tokenizer per encoder that turns `<mug>` into its phrase's marked tokens."""

from __future__ import annotations

import copy
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor

from ..composition import Composition, PlacedConcept
from ..concept import Concept
from ..prompt import Aside, Mark, aside, pieces, rewrite
from .encoders import Encoder
from .host_types import Tokenizer

Entry = tuple[Any, ...]  # (token, weight), and a word id when the host asks for one
Tokens = dict[str, list[list[Entry]]]

_MARK = "\ue000"  # a private character of Unicode: no embedding file and no prompt holds it


class SlotToken(dict):
    """A slot as ComfyUI's encoders read it: a dictionary with an embedding; `plain` is what strength 0 would hold."""

    def __init__(self, mark: Mark, concept: Concept, plain: Tensor, learned: Tensor | None, strength: float) -> None:
        self.mark, self.concept = mark, concept
        self.plain, self.learned, self.strength = plain, learned, strength
        super().__init__(type="embedding", data=self._drawn(mark.weight))

    def _drawn(self, weight: float) -> Tensor:
        """lerp(class word, learned, u): strength reaches the text encoder as it reaches the rows."""
        if self.learned is None:
            return self.plain
        return torch.lerp(self.plain, self.learned.to(self.plain), self.strength * weight)

    def weighted(self, weight: float) -> SlotToken:
        return SlotToken(self.mark._replace(weight=weight), self.concept, self.plain, self.learned, self.strength)

    def silent(self) -> SlotToken:
        return SlotToken(self.mark, self.concept, self.plain, None, 0.0)

    @property
    def says_class_word(self) -> bool:
        return torch.equal(self["data"], self.plain)


class WordToken(int):
    """A token of the phrase's own words."""

    mark: Mark

    @classmethod
    def of(cls, token: int, mark: Mark) -> WordToken:
        made = cls(token)
        made.mark = mark
        return made

    def weighted(self, weight: float) -> WordToken:
        return WordToken.of(int(self), self.mark._replace(weight=weight))


_MARKED = (SlotToken, WordToken)


class _Phrase(list):
    """A phrase's tokens where ComfyUI expects an embedding of several rows: it reads `shape` and indexes."""

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self), 1)


class Batches(list):
    """A text's tokens, and what it says besides: nodes hand an encoder's list on, or extend it in place."""

    aside: Aside


def placeholder_tokenizer(key: str, encoder: Encoder, composition: Composition) -> Tokenizer:
    """A copy of the encoder's tokenizer that also understands the composition's placeholders."""
    tokenizer = copy.copy(encoder.tokenizer)
    if tokenizer.embedding_directory is None:
        tokenizer.embedding_directory = []  # None switches the embedding syntax off, which carries our marks
    words = [placed.word for placed in composition]
    identifier = tokenizer.embedding_identifier
    host_tokenize, host_embedding = tokenizer.tokenize_with_weights, tokenizer._try_get_embedding
    gives_name = len(host_embedding(_MARK)) == 3  # ComfyUI 0.18 gives embedding and leftover only

    def mark(number: int, placed: PlacedConcept) -> str:
        return f"{identifier}{_MARK}{words.index(placed.word)}.{number}"

    def try_get_embedding(name: str):
        first, *rest = name.split() or [""]
        if not first.startswith(_MARK):
            return host_embedding(name)
        word, number = map(int, first.removeprefix(_MARK).split("."))
        phrase = phrase_tokens(composition[word], number, key, encoder)
        return (phrase, *([first] if gives_name else []), " ".join(rest))

    def tokenize_with_weights(text: str, return_word_ids: bool = False, **kwargs: object):
        batches = host_tokenize(rewrite(text, composition, mark), return_word_ids, **kwargs)
        own = Batches([_own_weight(entry) for entry in batch] for batch in batches)
        own.aside = aside(text, composition)
        return own

    tokenizer._try_get_embedding, tokenizer.tokenize_with_weights = try_get_embedding, tokenize_with_weights
    return tokenizer


def phrase_tokens(placed: PlacedConcept, number: int, key: str, encoder: Encoder) -> _Phrase:
    """The tokens of one occurrence's phrase in this encoder."""
    info, learned = placed.concept.info, placed.concept.embeddings.get(key)
    plain = encoder.class_embedding(info.class_word)
    phrase = _Phrase()
    for piece in pieces(info.phrase):
        if isinstance(piece, int):
            vector = None if learned is None else learned[piece]
            mark = Mark(placed.word, number, piece)
            phrase.append(SlotToken(mark, placed.concept, plain, vector, placed.strength))
        else:
            phrase += [WordToken.of(token, Mark(placed.word, number, None)) for token in encoder.ids(piece)]
    return phrase


def marks_in(tokens: Tokens) -> dict[str, list[tuple[int, Mark]]]:
    """Per encoder the marked tokens and their rows in the context: a chunk's output follows the one before."""
    return {key: _marks(batches) for key, batches in tokens.items()}


def asides_in(tokens: Tokens) -> Aside:
    return reduce(or_, (batches.aside for batches in tokens.values() if isinstance(batches, Batches)), Aside())


def with_only(tokens: Tokens, word: str) -> Tokens:
    """The tokens with every other concept's slots silent."""

    def one(entry: Entry) -> Entry:
        token = entry[0]
        if isinstance(token, SlotToken) and token.mark.word != word:
            return (token.silent(), *entry[1:])
        return entry

    return {key: [[one(entry) for entry in batch] for batch in batches] for key, batches in tokens.items()}


def spoken_in(tokens: Tokens) -> dict[str, Concept]:
    """By their words the concepts that are not silent in these tokens."""
    return {one.mark.word: one.concept for one in _slot_tokens(tokens) if one.strength}


def as_class_word(tokens: Tokens) -> set[str]:
    """Words all of whose slots hold the class word's embedding, whether as their own or for want of one."""
    slots = _slot_tokens(tokens)
    return {one.mark.word for one in slots} - {one.mark.word for one in slots if not one.says_class_word}


def has_embedding(composition: Composition, word: str) -> bool:
    return any(placed.word == word and placed.concept.embeddings for placed in composition)


def _slot_tokens(tokens: Tokens) -> list[SlotToken]:
    entries = (entry[0] for batches in tokens.values() for batch in batches for entry in batch)
    return [token for token in entries if isinstance(token, SlotToken)]


def _marks(batches: list[list[Entry]]) -> list[tuple[int, Mark]]:
    """Texts that were tokenised one by one and joined (BREAK) each count from 0: a repeated number goes on counting."""
    found: list[tuple[int, Mark]] = []
    start = offset = 0
    for batch in batches:
        own = [(start + at, entry[0].mark) for at, entry in enumerate(batch) if isinstance(entry[0], _MARKED)]
        if not _slots(found).isdisjoint(_slots(own, offset)):
            offset = 1 + max(mark.occurrence for _, mark in found)
        found += [(row, mark._replace(occurrence=mark.occurrence + offset)) for row, mark in own]
        start += len(batch)
    return found


def _slots(marked: list[tuple[int, Mark]], offset: int = 0) -> set[tuple[str, int, int]]:
    return {(mark.word, mark.occurrence + offset, mark.slot) for _, mark in marked if mark.slot is not None}


def _own_weight(entry: Entry) -> Entry:
    """A prompt weight on a phrase multiplies the concept's strength; the encoder sees weight 1."""
    token, weight, *rest = entry
    return (token.weighted(weight), 1.0, *rest) if isinstance(token, _MARKED) else entry
