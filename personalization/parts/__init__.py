"""The ways a concept acts at sites: one file each, its equation on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from ..sites import Site, SiteShape
from .context_rows import ContextRows
from .image_tokens import ImageTokens
from .instruction import LatentInstruction
from .low_rank import LowRank
from .nested_values import NestedValues


class Part(Protocol):
    """One way a concept acts; `kind` is the first word of its tensors' names in a concept file."""

    kind: ClassVar[str]

    @property
    def sites(self) -> tuple[Site, ...]: ...

    def tensors(self) -> dict[str, Tensor]:
        """Their names in a file -> the live tensors (not copies)."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Part:
        """The same part over other tensors of the same names and shapes."""
        ...

    @classmethod
    def expected(cls, shapes: Sequence[SiteShape], slots: int) -> dict[str, tuple[int | None, ...]]:
        """Every name that its tensors may have on a base of these sites, and their shapes; None = any size."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shapes: Sequence[SiteShape]) -> Part:
        """The part of a file, from tensors under `expected` names; ValueError if they disagree."""
        ...


PARTS: dict[str, type[Part]] = {
    part.kind: part for part in (ContextRows, ImageTokens, NestedValues, LowRank, LatentInstruction)
}
