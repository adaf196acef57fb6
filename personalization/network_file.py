"""Files of the small networks over an image encoder, format 1: safetensors with the network's own names and `probe`.

Everything else stands as one JSON text in the metadata. The probe is what the image encoder made of one fixed picture:
weights of other precision still give it, another encoder does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from .library import files_below
from .refusal import ConceptFileError, damaged, newer, not_ours
from .tensor_file import read_metadata, read_tensors, typed
from .tensor_hash import tensor_hash
from .whole_file import write_whole

FORMAT = 1
PROBE = "probe"
WIDEST, MOST_SITES, LONGEST = 1 << 13, 256, 64


class NetworkShape(Protocol):
    """A frozen dataclass of numbers and names that a network is built from."""

    @property
    def vision(self) -> int: ...

    @property
    def context(self) -> int: ...

    @property
    def fits(self) -> bool: ...


Shape = TypeVar("Shape", bound=NetworkShape)


@dataclass(frozen=True)
class NetworkInfo(Generic[Shape]):
    """Everything about a network that is not a tensor. `vision` names the image encoder for people."""

    family: str
    shape: Shape
    vision: str
    base: str = ""  # the checkpoint's file name, if known
    recipe: Mapping[str, object] = field(default_factory=dict)
    data_hash: str = ""
    seed: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()  # of training, evenly thinned
    key: str = ""  # of what it was trained from and how; empty where training was stopped early


@dataclass(frozen=True)
class NetworkFile(Generic[Shape]):
    """`probe` is (vision width,); `state` has every tensor of the network of that shape."""

    info: NetworkInfo[Shape]
    probe: Tensor
    state: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        return {PROBE: self.probe, **self.state}

    @property
    def hash(self) -> str:
        return tensor_hash(self.tensors())


@dataclass(frozen=True)
class NetworkKind(Generic[Shape]):
    """One kind of networks: how its files say so, who writes them, and what they hold."""

    name: str  # "towers"
    node: str  # that writes them
    key: str  # in the metadata
    shape: type[Shape]
    network: Callable[[Shape], nn.Module]

    def save(self, file: NetworkFile[Shape], path: Path) -> None:
        """Write the file under its final name only when it is complete on disk."""
        tensors = {name: one.detach().to("cpu", torch.float32).contiguous() for name, one in file.tensors().items()}
        header = json.dumps({"format": FORMAT, **asdict(file.info), "tensor_hash": tensor_hash(tensors)}, default=str)
        shown = {"modelspec.title": path.stem, "modelspec.implementation": "concept-loom"}
        write_whole(path, safetensors.save(tensors, {self.key: header, **shown}))

    def load(self, path: Path) -> NetworkFile[Shape]:
        """ConceptFileError, which names the file, when anything in it is wrong."""
        info, digest = self._info(path)
        tensors = read_tensors(path, self.name)
        expected = self.expected(info.shape)
        for name in (*tensors, *expected):
            if name not in expected:
                raise damaged(path, f"'{name}' belongs to no {self.name} that this version knows", self.name)
            if name not in tensors:
                raise damaged(path, f"'{name}' is missing", self.name)
            if tuple(tensors[name].shape) != expected[name]:
                found = tuple(tensors[name].shape)
                raise damaged(path, f"'{name}' is {found} where {expected[name]} belongs", self.name)
        file = NetworkFile(info, tensors.pop(PROBE), tensors)
        if file.hash != digest:
            raise damaged(path, "its tensors are not the ones that were saved", self.name)
        return file

    def read_info(self, path: Path) -> NetworkInfo[Shape]:
        """What a file says about itself, without loading a tensor."""
        return self._info(path)[0]

    def trained_before(self, key: str, folders: Iterable[Path]) -> Path | None:
        """The first sound file whose whole training had this key."""
        for path in files_below(folders):
            with suppress(ConceptFileError):
                if self.read_info(path).key == key and self.load(path):
                    return path
        return None

    def expected(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Every tensor of a file and its shape."""
        with torch.device("meta"):
            state = self.network(shape).state_dict()
        return {PROBE: (shape.vision,), **{name: tuple(one.shape) for name, one in state.items()}}

    def _info(self, path: Path) -> tuple[NetworkInfo[Shape], str]:
        text = read_metadata(path, self.name).get(self.key)
        if not isinstance(text, str):
            raise not_ours(path, f"was not written by {self.node}", self.name)
        try:
            header = json.loads(text)
            if header["format"] != FORMAT:
                raise newer(path, header["format"], FORMAT, self.name)
            return self._from(header), typed(header, "tensor_hash", str)
        except ConceptFileError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise damaged(path, f"its header is not what Concept Loom writes ({error})", self.name) from error

    def _from(self, header: Mapping[str, object]) -> NetworkInfo[Shape]:
        losses = tuple(float(loss) for loss in typed(header, "losses", list))
        if not all(map(math.isfinite, losses)):
            raise ValueError("a loss is not finite")
        return NetworkInfo(
            family=typed(header, "family", str),
            shape=self._shape(typed(header, "shape", dict)),
            vision=typed(header, "vision", str),
            base=typed(header, "base", str),
            recipe=typed(header, "recipe", dict),
            data_hash=typed(header, "data_hash", str),
            seed=typed(header, "seed", int),
            steps=typed(header, "steps", int),
            losses=losses,
            key=typed(header, "key", str),
        )

    def _shape(self, header: Mapping[str, object]) -> Shape:
        told: dict[str, Any] = {}
        for own in fields(self.shape):  # pyright: ignore[reportArgumentType] - a dataclass
            value = header[own.name]
            told[own.name] = _sites(value) if isinstance(value, list) else _size(header, own.name)
        shape = self.shape(**told)
        if not shape.fits:
            raise ValueError(f"{shape} cannot be built")
        return shape


def _size(header: Mapping[str, object], name: str) -> int:
    size = typed(header, name, int)
    if not 0 < size <= WIDEST:
        raise ValueError(f"{name} {size} is no size")
    return size


def _sites(values: list[object]) -> tuple[str, ...]:
    if not 0 < len(values) <= MOST_SITES or not all(isinstance(one, str) and len(one) <= LONGEST for one in values):
        raise ValueError("the sites are no list of names")
    return tuple(str(one) for one in values)
