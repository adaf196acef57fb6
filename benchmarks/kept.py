"""What the benches learned, in a folder: another judge, or a restart, looks at it again without learning.

Learning needs no judge. A file is found by all that it was learned from; the seconds that it took stand beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..personalization.checkpoint import load, save
from ..personalization.concept import Concept

T = TypeVar("T")


class Took(NamedTuple):
    seconds: float
    steps: int


class Kept:
    """Without a folder everything is learned, and nothing kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def concept(self, key: str, learn: Callable[[], tuple[Concept, Took]]) -> tuple[Concept, Took]:
        return self._once(key, learn, load, save)

    def tensors(self, key: str, learn: Callable[[], tuple[dict[str, Tensor], Took]]) -> tuple[dict[str, Tensor], Took]:
        return self._once(key, learn, load_file, _save)

    def _once(
        self,
        key: str,
        learn: Callable[[], tuple[T, Took]],
        read: Callable[[Path], T],
        write: Callable[[T, Path], object],
    ) -> tuple[T, Took]:
        if not self.folder:
            return learn()
        file = self.folder / f"{key}.safetensors"
        beside = file.with_suffix(".json")
        if not beside.exists():  # it is written last
            made, took = learn()
            write(made, file)
            beside.write_text(json.dumps(took._asdict()))
        return read(file), Took(**json.loads(beside.read_text()))


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def key_of(*parts: object) -> str:
    """Tensors by their bytes, everything else by its JSON."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        raw = part.detach().contiguous().numpy().tobytes() if isinstance(part, Tensor) else json.dumps(part).encode()
        digest.update(raw + b"\0")
    return digest.hexdigest()
