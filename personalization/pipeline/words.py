"""Placeholders in a diffusers pipeline: they are written before its tokenizer, and their vectors behind it.

A slot gets an id that no vocabulary has. On its way into the text encoder the id becomes an ordinary one, so that the
encoder finds the prompt's end as ever, and the token embedding becomes the slot's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..composition import Composition, PlacedConcept
from ..prompt import Mark, pieces, rewrite

FIRST = 1 << 20  # the id of the first slot; real vocabularies end far below
MARK = re.compile("\ue000(\\d+)\\.(\\d+)\ue000")  # a private character of Unicode: no prompt holds it


class Token(NamedTuple):
    id: int
    mark: Mark | None = None


class Slot(NamedTuple):
    """A slot's vector, and the class word's where it is silent; (width,)."""

    word: str
    plain: Tensor
    drawn: Tensor


class Tokenized(NamedTuple):
    input_ids: Any  # (b, tokens), or lists of them
    attention_mask: Any


class Words:
    """One encoder's tokenizer and text model, which know a composition's words while `tokenizer` stands in for it."""

    def __init__(self, key: str, tokenizer: Any, encoder: nn.Module, composition: Composition) -> None:
        self.key, self.plain, self.composition = key, tokenizer, composition
        self.only = ""  # a word: every other slot is silent
        self.table: nn.Embedding = encoder.get_input_embeddings()  # pyright: ignore[reportCallIssue]
        self.slots = [slot for placed in composition for slot in self._slots(placed)]
        self._held: Tensor | None = None  # the ids of the call that runs
        before = encoder.register_forward_pre_hook(self._enter, with_kwargs=True)
        self.hooks = [before, self.table.register_forward_hook(self._write)]

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the pipeline's own tokenizer."""
        return getattr(self.plain, name)

    def __call__(
        self, text: str | Sequence[str], padding: str = "longest", max_length: int = 0, truncation: bool = False, **how
    ) -> Tokenized:
        """As the pipelines call a tokenizer."""
        texts = [text] if isinstance(text, str) else list(text)
        limit = (max_length or self.plain.model_max_length) if truncation else 0
        rows = [self._closed(one, limit) for one in texts]
        longest = max(map(len, rows)) if padding == "longest" else max_length
        ids = torch.tensor([row + [self.plain.pad_token_id] * (longest - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return Tokenized(ids, seen)

    def batch_decode(self, ids: Tensor, *args: object, **kwargs: object) -> list[str]:
        """What was cut off, with the class word's first token in place of slots."""
        return self.plain.batch_decode(self._ordinary(ids), *args, **kwargs)

    def marks(self, text: str) -> list[tuple[int, Mark]]:
        """The marked tokens of a text and their rows in its encoding."""
        return [(row, token.mark) for row, token in enumerate(self.tokens(text), 1) if token.mark is not None]

    def tokens(self, text: str) -> list[Token]:
        """Without beginning and end."""
        words, found = [placed.word for placed in self.composition], []
        text = rewrite(
            text, self.composition, lambda number, placed: f"\ue000{words.index(placed.word)}.{number}\ue000"
        )
        place = 0
        for match in MARK.finditer(text):
            found += map(Token, self._ids(text[place : match.start()]))
            found += self._phrase(self.composition[int(match[1])], int(match[2]))
            place = match.end()
        return [*found, *map(Token, self._ids(text[place:]))]

    def _closed(self, text: str, limit: int) -> list[int]:
        ids = [token.id for token in self.tokens(text)]
        inside = ids[: limit - 2] if limit else ids
        return [self.plain.bos_token_id, *inside, self.plain.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        return self.plain(text, add_special_tokens=False).input_ids if text.strip() else []

    def _phrase(self, placed: PlacedConcept, number: int) -> list[Token]:
        first, found = self._first(placed), []
        for piece in pieces(placed.concept.info.phrase):
            if isinstance(piece, int):
                found.append(Token(FIRST + first + piece, Mark(placed.word, number, piece)))
            else:
                found += [Token(one, Mark(placed.word, number, None)) for one in self._ids(piece)]
        return found

    def _first(self, placed: PlacedConcept) -> int:
        return next(number for number, slot in enumerate(self.slots) if slot.word == placed.word)

    def _slots(self, placed: PlacedConcept) -> list[Slot]:
        info, learned = placed.concept.info, placed.concept.embeddings.get(self.key)
        home = self.table.weight.device
        ids = torch.tensor(self._ids(info.class_word), device="cpu" if home.type == "meta" else home)
        with torch.no_grad():
            plain = self.table(ids).float().mean(0)  # by the layer: an offloaded one fetches its weight for the call
        if learned is None:
            return [Slot(placed.word, plain, plain)] * info.slots
        return [Slot(placed.word, plain, torch.lerp(plain, row.to(plain), placed.strength)) for row in learned]

    def _enter(self, encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        ids = args[0] if args else kwargs.get("input_ids")
        self._held = ids if ids is not None and bool((ids >= FIRST).any()) else None
        if self._held is None:
            return None
        return (
            ((self._ordinary(ids), *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": self._ordinary(ids)})
        )

    def _ordinary(self, ids: Any) -> Any:
        if not isinstance(ids, Tensor):
            ids = torch.tensor(ids)
        return torch.where(ids >= FIRST, self._ids("a")[0], ids)

    def _write(self, table: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        held, self._held = self._held, None
        if held is None or held.shape != out.shape[:2]:
            return None
        rows, columns = (held >= FIRST).nonzero(as_tuple=True)
        slots = [self.slots[int(one) - FIRST] for one in held[rows, columns]]
        vectors = [slot.plain if self.only not in ("", slot.word) else slot.drawn for slot in slots]
        return out.index_put((rows, columns), torch.stack(vectors).to(out))
