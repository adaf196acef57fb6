"""Context rows: the placeholder's rows of the text context, replaced site by site.

CoAR / DCoAR (arXiv 2508.07341), layerwise context learning, text side. At site l, before to_k and to_v:

    c'[s] = c[s] + u (p_v^(l) - c[s])        u = strength x prompt weight, s = the placeholder's slots
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..sites import SiteShape
from .per_site import PerSite


@dataclass(frozen=True)
class ContextRows(PerSite):
    """`rows[site]` is p_v at that site, (slots, context width), fp32."""

    kind: ClassVar[str] = "context_rows"

    @staticmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, int]:
        return (slots, shape.context)


def lerp_rows(context: Tensor, batch: Tensor, slots: Tensor, rows: Tensor, u: Tensor) -> Tensor:
    """`context` (b, tokens, d) with `rows` (k, d) drawn in by `u` (k, 1) at the k places (`batch`, `slots`)."""
    old = context[batch, slots]  # (k, d)
    return context.index_put((batch, slots), torch.lerp(old, rows.to(old), u.to(old)))
