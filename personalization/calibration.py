"""Calibration: how much attention a word and its category take in one pass, for the regulariser (objectives.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .denoiser import Context, Observation, Observer, unseen
from .indices import indices
from .objectives import attention_regulariser
from .sites import Site


class Calibration:
    """Watches the first occurrence of `word` and the category's tokens that come with it, in every sample.

    ValueError where the word brings no category along. All text encoders read the same text with the same tokens, so
    the first one's rows are everybody's. A sample in which the word was cut off counts nothing.
    """

    def __init__(self, contexts: Sequence[Context], word: str, slots: int, device: torch.device) -> None:
        found = [_rows(context, word, slots) for context in contexts]
        width = max(map(len, found))
        if width <= slots:
            raise ValueError(
                f"The phrase of <{word}> has no word beside its slot; the attention regulariser compares the slot with "
                "its category. Give the concept a class word, or take a recipe without w_mean and w_var."
            )
        columns = [rows if len(rows) == width else [0] * width for rows in found]
        self.slots, self.seen = slots, dict[Site, Tensor]()
        self.columns = indices(columns, device)

    @property
    def observer(self) -> Observer:
        """Not kept: a cycle would keep a step's graph alive until Python looks for cycles."""
        return Observer(self._see, self.columns)

    def loss(self, w_mean: float, w_var: float) -> Tensor:
        if not self.seen:
            raise unseen("the attention regulariser")
        return attention_regulariser(list(self.seen.values()), self.slots, w_mean, w_var)

    def _see(self, site: Site, observation: Observation) -> None:
        """Once: a checkpointed block runs again in the backward pass, and its attention would keep its graph alive."""
        if observation.attention is not None:
            self.seen.setdefault(site, observation.attention)


def _rows(context: Context, word: str, slots: int) -> list[int]:
    """Rows of the slots, then of the category."""
    for one in context.slots:
        if one.word == word:
            encoder, rows = next(iter(one.rows.items()))
            category = one.category.get(encoder, ())
            return [*rows[:slots], *category[: len(category) // len(one.weights)]]
    return []
