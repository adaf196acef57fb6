"""What most parts hold: rows per site, one tensor each, named `kind.block.number.index` in a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from ..sites import Site, SiteShape


@dataclass(frozen=True)
class PerSite(ABC):
    """`rows[site]` is (rows, width), fp32; a part says which rows and which width."""

    kind: ClassVar[str]
    rows: Mapping[Site, Tensor]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.rows)

    def tensors(self) -> dict[str, Tensor]:
        return {f"{self.kind}.{site.key}": rows for site, rows in self.rows.items()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        return type(self)({site: tensors[f"{self.kind}.{site.key}"] for site in self.rows})

    @staticmethod
    @abstractmethod
    def shape_at(shape: SiteShape, slots: int) -> tuple[int | None, int]:
        """What the rows of a site look like; None = any number."""

    @classmethod
    def expected(cls, shapes: Sequence[SiteShape], slots: int) -> dict[str, tuple[int | None, ...]]:
        return {f"{cls.kind}.{shape.site.key}": cls.shape_at(shape, slots) for shape in shapes}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shapes: Sequence[SiteShape]) -> Self:
        """In the order of `shapes`, whatever order the file lists them in."""
        named = {shape.site: f"{cls.kind}.{shape.site.key}" for shape in shapes}
        return cls({site: tensors[name] for site, name in named.items() if name in tensors})
