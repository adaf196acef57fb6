"""Image tokens: what a concept adds to the image tokens that the pictures' own tokens look at.

CoAR / DCoAR (arXiv 2508.07341), layerwise context learning, image side. At site l, in attn1, before to_k and to_v:

    K' = [K; W_k p_I^(l)],   V' = [V; W_v p_I^(l)],   the added logits get + log u      (u = 0 removes them)

only in the samples whose conditioning holds the concept's word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..sites import SiteShape
from .per_site import PerSite


@dataclass(frozen=True)
class ImageTokens(PerSite):
    """`rows[site]` is p_I at that site, (tokens, width of the image tokens), fp32."""

    kind: ClassVar[str] = "image_tokens"

    @staticmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, int]:
        return (None, shape.width)


def presence_logits(u: Tensor) -> Tensor:
    """What is added to the logits of tokens that are there with the share `u` (..., 0..): log u."""
    return u.log().clamp(min=-3.0e4)  # finite in fp16 too: a true infinity makes sliced attention divide 0 by 0
