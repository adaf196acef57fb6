"""From pictures to instructions (DRC, arXiv 2504.17349, stage 2): history -> style, reference -> semantics.

Who asks whom is ours. Every history picture asks the others, as the anchor does in training, so that the reference has
no say in the style: F_i = StyleTower(q=E_i, kv=[E_j, j != i]); a single one asks itself, as the reference does. The
weight of picture j is the share of attention that the others pay it, w_j = mean_i a_ij, and its features enter the
fusion with log w_j on their logits, so that the history weighs as much as one picture did in training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..concept import Concept, ConceptInfo
from ..parts import LatentInstruction
from .networks import Towers


class Instructions(NamedTuple):
    """(M, context width) each, and the weight of every history picture (n,), summing to 1."""

    style: Tensor
    semantics: Tensor
    both: Tensor
    weights: Tensor


class Style(NamedTuple):
    features: Tensor  # (1, tokens of all pictures, width)
    weights: Tensor  # (n,)


@torch.no_grad()
def instructions(towers: Towers, history: Tensor, reference: Tensor) -> Instructions:
    """`history` (n, tokens, vision) and `reference` (1, tokens, vision), the image encoder's."""
    style = style_of(towers, history)
    semantics = towers.semantics(reference, reference).features
    heard = style.weights.clamp_min(1e-6).log().repeat_interleave(history.shape[1])[None]  # (1, tokens of all pictures)
    bias = torch.cat([heard, heard.new_zeros(1, semantics.shape[1])], 1)
    fusion, nothing = towers.fusion, semantics[:, :0]
    return Instructions(
        fusion(style.features, nothing, heard)[0],
        fusion(nothing, semantics)[0],
        fusion(style.features, semantics, bias)[0],
        style.weights,
    )


def style_of(towers: Towers, history: Tensor) -> Style:
    count, tokens, width = history.shape
    if count == 1:
        return Style(towers.style(history, history).features, history.new_ones(1))
    features, paid = [], history.new_zeros(count)
    for number in range(count):
        others = [other for other in range(count) if other != number]
        read = towers.style(history[number][None], history[others].reshape(1, -1, width))
        features.append(read.features)
        paid[others] += read.shares[0].mean(0).unflatten(0, (-1, tokens)).sum(1)
    return Style(torch.cat(features, 1), paid / count)


def words_of(placeholder: str, class_word: str) -> tuple[ConceptWords, ConceptWords, ConceptWords]:
    """Of style, semantics and both: a prompt may hold any of them, or two."""
    return (
        ConceptWords(f"{placeholder}_style", "style", "style"),
        ConceptWords(f"{placeholder}_content", class_word, "subject"),
        ConceptWords(placeholder, class_word, "both"),
    )


class ConceptWords(NamedTuple):
    """Under which word a concept acts, which class word that reads as, and its role."""

    placeholder: str
    class_word: str
    role: str


def instructed(words: ConceptWords, tokens: Tensor, origin: ConceptInfo) -> Concept:
    """The concept of an instruction (M, context width) at every site of the origin's base.

    It has no embedding: the word reads as its class word, and the instruction alone is the concept. `origin` says all
    else about it.
    """
    info = replace(origin, name=words.placeholder, phrase="[V]", **words._asdict())
    own = LatentInstruction.at((shape.site for shape in origin.base.sites), tokens.float().cpu().clone())
    return Concept(info, {}, (own,))
