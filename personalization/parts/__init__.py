"""The ways a concept acts at sites: one file each, its equation on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor

from ..sites import Site, SiteShape
from .context_rows import ContextRows
from .image_tokens import ImageTokens
from .low_rank import LowRank
from .nested_values import NestedValues


class Part(Protocol):
    """One way a concept acts; `kind` is the first word of its tensors' names in a concept file."""

    kind: ClassVar[str]

    @property
    def sites(self) -> tuple[Site, ...]: ...

    def tensors(self) -> dict[str, Tensor]:
        """Names `kind.block.number.index`, or longer ones, -> the live tensors (not copies)."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Part:
        """The same part over other tensors of the same names and shapes."""
        ...

    @classmethod
    def expected(cls, shape: SiteShape, slots: int) -> Mapping[str, tuple[int | None, ...]]:
        """Names and shapes of all that may be there at a site, None where any size will do; files are checked by it."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Part:
        """The part of a file, from tensors of its kind in forward order of their sites; ValueError if they disagree."""
        ...


PARTS: dict[str, type[Part]] = {part.kind: part for part in (ContextRows, ImageTokens, NestedValues, LowRank)}
