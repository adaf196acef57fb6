"""Towers files, format 1: safetensors with the networks' own names and `probe`.

Everything else stands as one JSON text under "concept_loom_towers" in the metadata. The probe is what the image encoder
made of one fixed picture: weights of other precision still give it, another encoder does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import torch as safetensors
from torch import Tensor

from ..library import files_below
from ..refusal import ConceptFileError, damaged, newer, not_ours
from ..tensor_file import read_metadata, read_tensors, typed
from ..tensor_hash import tensor_hash
from ..whole_file import write_whole
from .networks import Towers, TowersShape

KEY, KIND, FORMAT = "concept_loom_towers", "towers", 1
PROBE = "probe"
WIDEST, MOST_TOKENS = 1 << 13, 256


@dataclass(frozen=True)
class TowersInfo:
    """Everything about towers that is not a tensor. `vision` names the image encoder for people."""

    family: str
    shape: TowersShape
    vision: str
    base: str = ""  # the checkpoint's file name, if known
    recipe: Mapping[str, object] = field(default_factory=dict)
    data_hash: str = ""
    seed: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()  # of training, evenly thinned
    key: str = ""  # of what they were trained from and how; empty where training was stopped early


@dataclass(frozen=True)
class TowersFile:
    """`probe` is (vision width,); `state` has every tensor of `Towers(info.shape)`."""

    info: TowersInfo
    probe: Tensor
    state: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        return {PROBE: self.probe, **self.state}

    @property
    def hash(self) -> str:
        return tensor_hash(self.tensors())


def save(towers: TowersFile, path: Path) -> None:
    """Write the file under its final name only when it is complete on disk."""
    tensors = {name: one.detach().to("cpu", torch.float32).contiguous() for name, one in towers.tensors().items()}
    whole = TowersFile(towers.info, tensors[PROBE], {name: one for name, one in tensors.items() if name != PROBE})
    header = json.dumps({"format": FORMAT, **asdict(towers.info), "tensor_hash": whole.hash}, default=str)
    shown = {"modelspec.title": path.stem, "modelspec.implementation": "concept-loom"}
    write_whole(path, safetensors.save(tensors, {KEY: header, **shown}))


def load(path: Path) -> TowersFile:
    """ConceptFileError, which names the file, when anything in it is wrong."""
    info, digest = _info(path)
    tensors = read_tensors(path, KIND)
    expected = expected_shapes(info.shape)
    for name in (*tensors, *expected):
        if name not in expected:
            raise damaged(path, f"'{name}' belongs to no towers that this version knows", KIND)
        if name not in tensors:
            raise damaged(path, f"'{name}' is missing", KIND)
        if tuple(tensors[name].shape) != expected[name]:
            raise damaged(path, f"'{name}' is {tuple(tensors[name].shape)} where {expected[name]} belongs", KIND)
    towers = TowersFile(info, tensors.pop(PROBE), tensors)
    if towers.hash != digest:
        raise damaged(path, "its tensors are not the ones that were saved", KIND)
    return towers


def read_info(path: Path) -> TowersInfo:
    """What a file says about itself, without loading a tensor."""
    return _info(path)[0]


def trained_before(key: str, folders: Iterable[Path]) -> Path | None:
    """The first sound file whose whole training had this key."""
    for path in files_below(folders):
        with suppress(ConceptFileError):
            if read_info(path).key == key and load(path):
                return path
    return None


def expected_shapes(shape: TowersShape) -> dict[str, tuple[int, ...]]:
    """Every tensor of a file and its shape."""
    with torch.device("meta"):
        state = Towers(shape).state_dict()
    return {PROBE: (shape.vision,), **{name: tuple(one.shape) for name, one in state.items()}}


def _info(path: Path) -> tuple[TowersInfo, str]:
    text = read_metadata(path, KIND).get(KEY)
    if not isinstance(text, str):
        raise not_ours(path, "was not written by Train Towers", KIND)
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            raise newer(path, header["format"], FORMAT, KIND)
        return _from(header), typed(header, "tensor_hash", str)
    except ConceptFileError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, f"its header is not what Concept Loom writes ({error})", KIND) from error


def _from(header: Mapping[str, object]) -> TowersInfo:
    losses = tuple(float(loss) for loss in typed(header, "losses", list))
    if not all(map(math.isfinite, losses)):
        raise ValueError("a loss is not finite")
    return TowersInfo(
        family=typed(header, "family", str),
        shape=_shape(typed(header, "shape", dict)),
        vision=typed(header, "vision", str),
        base=typed(header, "base", str),
        recipe=typed(header, "recipe", dict),
        data_hash=typed(header, "data_hash", str),
        seed=typed(header, "seed", int),
        steps=typed(header, "steps", int),
        losses=losses,
        key=typed(header, "key", str),
    )


def _shape(header: Mapping[str, object]) -> TowersShape:
    shape = TowersShape(**{name: typed(header, name, int) for name in ("vision", "context", "width", "tokens")})
    if not all(0 < width <= WIDEST for width in (shape.vision, shape.context, shape.width)) or (
        not 0 < shape.tokens <= MOST_TOKENS
    ):
        raise ValueError(f"{shape} is no size")
    if not shape.fits:
        raise ValueError(f"{shape.width} channels cannot be cut into heads")
    return shape
