"""What training sees of a model: a denoiser and a prompt encoder, whoever owns the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, device

from .composition import Composition
from .concept import Base
from .sites import Site


class Slots(NamedTuple):
    """Where one concept's word stands in a context, per text encoder, once per occurrence of the word.

    `rows["l"]` has one row number per slot and occurrence, in slot order: slot k of occurrence o is entry
    o * slots + k. `weights` has one prompt weight per occurrence. `category` has, in the same order, the rows of the
    phrase's own words ("mug" of "[V] mug"), as many tokens as they are.
    """

    word: str
    concept: str  # the concept's content hash
    rows: Mapping[str, tuple[int, ...]]
    weights: tuple[float, ...]
    category: Mapping[str, tuple[int, ...]] = MappingProxyType({})


@dataclass(frozen=True)
class Context:
    """An encoded prompt: `tensor` (1, tokens, d), `pooled` (1, p) or None, and where its concepts' words stand."""

    tensor: Tensor
    slots: tuple[Slots, ...] = ()
    pooled: Tensor | None = None


def slot_rows(context: Context, base: Base, slots: int, word: str = "") -> Tensor:
    """The context's own rows at the first occurrence of `word`, by default of the first concept's: (slots, d), fp32.

    Each text encoder has its own channels and may have its own row numbers (SDXL: l 768 | g 1280).
    """
    found = next((one for one in context.slots if word in ("", one.word)), None)
    if found is None:
        raise ValueError(
            "The prompt encoder found no placeholder in the caption; learning starts from the rows where it stands. "
            "Wire the checkpoint's own CLIP."
        )
    rows, channel = torch.empty(slots, context.tensor.shape[-1]), 0
    for key, width in base.encoders.items():
        end = channel + width if len(base.encoders) > 1 else rows.shape[-1]
        rows[:, channel:end] = context.tensor[0, list(found.rows[key][:slots]), channel:end].float().cpu()
        channel = end
    return rows


class PromptEncoder(Protocol):
    def class_embedding(self, word: str) -> Mapping[str, Tensor]:
        """Per text encoder the mean of `word`'s token embeddings, (1, width), fp32: where a slot starts."""
        ...

    def encode(self, text: str, composition: Composition = ()) -> Context:
        """Encode `text` with its placeholders; differentiable in the composition's embeddings when grad is on."""
        ...


class Observation(NamedTuple):
    """What a site saw in one pass: attn1's input (b, n, width); chosen columns of attn2, fp32 (b, heads, n, k)."""

    hidden: Tensor
    attention: Tensor | None


class Observer(NamedTuple):
    """`see` is called at every site in forward order; `columns` (b, k): the context rows whose attention it wants."""

    see: Callable[[Site, Observation], None]
    columns: Tensor | None = None


def unseen(asking: str, site: Site | None = None) -> ValueError:
    """For what has to see the attention of a site, or of any, and was shown none."""
    return ValueError(
        f"Another pack replaces the text attention of this MODEL{f' at {site.key}' if site else ''}, and {asking} has "
        "to see it while learning. Connect the MODEL from before that pack's node; it may be used afterwards."
    )


def observers(every: Iterable[Observer]) -> Observer | None:
    """One observer for all of them, each of which sees the columns that it asked for; None for none."""
    every = tuple(every)
    asked = [one for one in every if one.columns is not None]

    def see(site: Site, seen: Observation) -> None:
        shares = iter([] if seen.attention is None else seen.attention.split([_width(one) for one in asked], -1))
        for one in every:
            one.see(site, Observation(seen.hidden, next(shares) if one.columns is not None else None))

    columns = [one.columns for one in asked if one.columns is not None]
    return Observer(see, torch.cat(columns, 1) if columns else None) if every else None


def _width(observer: Observer) -> int:
    return 0 if observer.columns is None else observer.columns.shape[1]


class Denoiser(Protocol):
    """A frozen model. Latents (b, c, h, w) as the sampler sees them; sigma (b,)."""

    base: Base
    device: device

    def sigma_at(self, percent: Tensor) -> Tensor:
        """Percent of sampling in 0..1 (0 = most noise) -> sigma."""
        ...

    def add_noise(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor: ...

    def predict(
        self,
        noised: Tensor,
        sigma: Tensor,
        contexts: Sequence[Context],
        composition: Composition = (),
        observer: Observer | None = None,
    ) -> Tensor:
        """The denoised latents; one context per sample; the composition acts where each context holds its words."""
        ...

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Weight on (denoised - x0)^2 that makes it the model's own training loss (eps, v or flow)."""
        ...
