"""A toy backbone and a toy text encoder with real attention: small enough for a training run in a second."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from concept_loom.personalization.composition import Composition, PlacedConcept
from concept_loom.personalization.concept import Base
from concept_loom.personalization.denoiser import Context, Observation, Observer, Slots
from concept_loom.personalization.latents import TrainingLatents
from concept_loom.personalization.parts.context_rows import ContextRows, lerp_rows
from concept_loom.personalization.prompt import SLOT, occurrences
from concept_loom.personalization.sites import Site, SiteShape
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, CHANNELS, SIDE, HEADS = 32, 4, 4, 2
ENCODERS = {"l": 10, "g": 14}  # two, with their own channels, as in SDXL
CONTEXT = sum(ENCODERS.values())
SITES = (Site("input", 1, 0), Site("middle", 0, 0), Site("output", 3, 0))
BASE = Base("Playground", CONTEXT, ENCODERS, tuple(SiteShape(s, WIDTH, CONTEXT, HEADS) for s in SITES), "eps", "toy")


class Attention(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(WIDTH, WIDTH), nn.Linear(context, WIDTH)
        self.to_v, self.to_out = nn.Linear(context, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.to_q(x), *self.keys_values(context)))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def shares(self, x: Tensor, context: Tensor, columns: Tensor | None) -> Tensor | None:
        """Attention to the columns (b, k): (b, heads, n, k)."""
        q, k = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.to_q(x), self.to_k(context)))
        shares = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return None if columns is None else shares.gather(-1, columns[:, None, None].expand(*shares.shape[:3], -1))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k(context), self.to_v(context)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.place = nn.Parameter(torch.randn(SIDE * SIDE, WIDTH))
        self.attn1 = nn.ModuleList(Attention(WIDTH) for _ in SITES)
        self.attn2 = nn.ModuleList(Attention(CONTEXT) for _ in SITES)

    def forward(self, x: Tensor, contexts: Sequence[Tensor], observer: Observer | None = None) -> Tensor:
        """x (b, c, h, w), one context (b, tokens, d) per site."""
        h = self.into(x.flatten(2).transpose(1, 2)) + self.place  # (b, n, width)
        for site, attn1, attn2, context in zip(SITES, self.attn1, self.attn2, contexts, strict=True):
            hidden = h
            h = h + attn1(h, h)
            if observer:
                observer.see(site, Observation(hidden, cast(Attention, attn2).shares(h, context, observer.columns)))
            h = h + 3 * attn2(h, context)
        return self.out(h).transpose(1, 2).unflatten(2, (SIDE, SIDE))


class ToyDenoiser:
    """Predicts eps; `broken` after so many predictions returns NaN, `raises` an exception then."""

    base = BASE
    device = torch.device("cpu")

    def __init__(self, breaks: int = -1, raises: type[BaseException] | None = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = Backbone().requires_grad_(False)
        self.breaks, self.raises, self.calls = breaks, raises, 0

    def sigma_at(self, percent: Tensor) -> Tensor:
        return 8.0 * (0.05 / 8.0) ** percent

    def add_noise(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        return x0 + sigma.view(-1, 1, 1, 1) * noise

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def predict(
        self,
        noised: Tensor,
        sigma: Tensor,
        contexts: Sequence[Context],
        composition: Composition = (),
        observer: Observer | None = None,
    ) -> Tensor:
        self.calls += 1
        broken = self.calls == self.breaks
        if broken and self.raises:
            raise self.raises
        context = torch.cat([one.tensor for one in contexts])  # (b, tokens, d); equal lengths only
        per_site = [_edited(context, site, contexts, composition) for site in SITES]
        scale = sigma.view(-1, 1, 1, 1)
        eps = self.net(noised / (scale**2 + 1).sqrt(), per_site, observer)
        return noised - scale * eps * (torch.nan if broken else 1.0)


def _edited(context: Tensor, site: Site, contexts: Sequence[Context], composition: Composition) -> Tensor:
    """Context rows only, at strength 1; both encoders have the same row numbers here."""
    for placed in composition:
        for part in placed.concept.parts:
            batch, token, slot = _places(placed, contexts)
            if isinstance(part, ContextRows) and site in part.rows and batch:
                rows = part.rows[site][slot]  # (k, d)
                context = lerp_rows(context, torch.tensor(batch), torch.tensor(token), rows, torch.ones(len(rows), 1))
    return context


def _places(placed: PlacedConcept, contexts: Sequence[Context]) -> tuple[list[int], list[int], list[int]]:
    found = [
        (sample, row, number % placed.concept.info.slots)
        for sample, one in enumerate(contexts)
        for slots in one.slots
        if slots.word == placed.word
        for number, row in enumerate(slots.rows["l"])
    ]
    return [place[0] for place in found], [place[1] for place in found], [place[2] for place in found]


class ToyPromptEncoder:
    """Whole words as tokens, a table of vectors and one causal attention per encoder; always 10 tokens long."""

    tokens = 10

    def __init__(self, widths: Mapping[str, int] = ENCODERS) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.tables = {key: torch.randn(97, width) for key, width in widths.items()}
        self.encoded = 0

    def class_embedding(self, word: str) -> dict[str, Tensor]:
        return {key: table[[_id(part) for part in word.split()]].mean(0)[None] for key, table in self.tables.items()}

    def encode(self, text: str, composition: Composition = ()) -> Context:
        self.encoded += 1
        words = self._words(text, composition)
        slots = tuple(self._slots(placed.word, placed, words) for placed in composition if placed.word in words)
        channels = [self._encoded(key, words, {p.word: p for p in composition}) for key in self.tables]
        return Context(torch.cat(channels, -1)[None], slots)

    def _words(self, text: str, composition: Composition) -> list[str]:
        """Plain words, and a concept's word once per slot."""
        for found in reversed(occurrences(text, composition)):
            phrase = found.placed.concept.info.phrase.replace(SLOT, f"<{found.placed.word}>")
            text = text[: found.start] + phrase + text[found.end :]
        words = [word.removeprefix("<").removesuffix(">") if word[0] == "<" else f"_{word}" for word in text.split()]
        return (words + ["_"] * self.tokens)[: self.tokens]

    def _slots(self, word: str, placed: PlacedConcept, words: list[str]) -> Slots:
        rows = tuple(i for i, one in enumerate(words) if one == word)
        own = placed.concept.info.phrase.split("[V]")[-1].split()
        category = tuple(range(rows[-1] + 1, rows[-1] + 1 + len(own)))
        return Slots(
            word, placed.concept.hash, dict.fromkeys(self.tables, rows), (1.0,), dict.fromkeys(self.tables, category)
        )

    def _encoded(self, key: str, words: list[str], placed: dict[str, PlacedConcept]) -> Tensor:
        seen: dict[str, int] = {}
        vectors = []
        for word in words:
            if word in placed:
                concept = placed[word].concept
                slots = concept.embeddings.get(key, self.class_embedding(concept.info.class_word)[key])
                vectors.append(slots[seen.get(word, 0)])
                seen[word] = seen.get(word, 0) + 1
            else:
                vectors.append(self.tables[key][_id(word[1:])])
        x = torch.stack(vectors)[None]
        return (x + F.scaled_dot_product_attention(x, x, x, is_causal=True))[0]


def _id(word: str) -> int:
    return zlib.crc32(word.encode()) % 97


def toy_latents(train: int = 5, held_out: int = 2, seed: int = 3) -> TrainingLatents:
    """Pictures of one thing: a pattern that they share, and something of each one's own."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, CHANNELS, SIDE, SIDE, generator=generator)
    own = torch.randn(train + held_out, CHANNELS, SIDE, SIDE, generator=generator)
    latents, masks = shared + 0.2 * own, torch.ones(train + held_out, 1, SIDE, SIDE)
    latents, masks = tuple(latents), tuple(masks)
    return TrainingLatents(
        latents[:train], masks[:train], ("",) * train, latents[train:], masks[train:], data_hash="toy"
    )
