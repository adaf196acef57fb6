"""Latent instruction: tokens that tell every text layer something which the prompt does not say.

After DRC (arXiv 2504.17349), whose fused features guide the generator as a "latent instruction". How they enter it is
ours. At every site, in attn2, with the layer's own query and its own projections K_x = W_k X, V_x = W_v X:

    out = A V + u softmax(q K_x^T / sqrt d) V_x        A = softmax(q K^T / sqrt d)

only in the samples whose conditioning holds the concept's word. X lives in the context's space, and all sites share it:
a file holds it once, and it acts at every site of the base in the file's header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from ..sites import Site, SiteShape
from .per_site import PerSite


@dataclass(frozen=True)
class LatentInstruction(PerSite):
    """`rows[site]` is X, (M, context width), fp32: the same tensor at every site; in training also (b, M, width)."""

    kind: ClassVar[str] = "latent_instruction"
    name: ClassVar[str] = "latent_instruction.every_site"

    @classmethod
    def at(cls, sites: Iterable[Site], tokens: Tensor) -> Self:
        return cls(dict.fromkeys(sites, tokens))

    @property
    def tokens(self) -> Tensor:
        return next(iter(self.rows.values()))

    def tensors(self) -> dict[str, Tensor]:
        return {self.name: self.tokens}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        return self.at(self.sites, tensors[self.name])

    @staticmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, int]:
        return (None, shape.context)

    @classmethod
    def expected(cls, shapes: Sequence[SiteShape], slots: int) -> dict[str, tuple[int | None, ...]]:
        """None where the sites' contexts differ in width: nothing can be shared there."""
        return {cls.name: cls.shape_at(shapes[0], slots)} if len({shape.context for shape in shapes}) == 1 else {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shapes: Sequence[SiteShape]) -> Self:
        return cls.at((shape.site for shape in shapes), tensors[cls.name])


def instruction(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q K_x^T / sqrt d) V_x for k samples, (k, heads, n, d), fp32; keys and values (k, heads, M, d)."""
    return (q.float() @ keys.float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ values.float()
