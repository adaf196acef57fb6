"""The ways a concept acts at sites: one file each, its equation on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor

from ..sites import Site, SiteShape
from .context_rows import ContextRows
from .image_tokens import ImageTokens
from .nested_values import NestedValues


class Part(Protocol):
    """One way a concept acts; `kind` is the first word of its tensors' names in a concept file."""

    kind: ClassVar[str]

    @property
    def sites(self) -> tuple[Site, ...]: ...

    def tensors(self) -> dict[str, Tensor]:
        """Names `kind.block.number.index` -> the live tensors (not copies)."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Part:
        """The same part over other tensors of the same names and shapes."""
        ...

    @staticmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, ...]:
        """What the tensor of a site must look like, None where any size will do; files are checked against it."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Part:
        """The part of a file, from tensors of its kind in forward order of their sites."""
        ...


PARTS: dict[str, type[Part]] = {part.kind: part for part in (ContextRows, ImageTokens, NestedValues)}
