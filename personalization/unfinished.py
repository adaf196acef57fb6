"""Unfinished learning on disk: one snapshot per run in a folder beside the concepts, until the run has ended.

Not in ComfyUI's temp folder, which is emptied at every start. Loader and asset browser pass the files over: they are
no *.safetensors (though written as such), and the folder's name begins with a dot.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from .recipe import Recipe
from .snapshot import Snapshot, belongs
from .whole_file import write_whole

FOLDER, SUFFIX = ".unfinished", ".snapshot"
KEY, FORMAT = "concept_loom_snapshot", 1
OLD = 28 * 24 * 3600.0  # seconds after which nobody comes back
log = logging.getLogger("concept_loom")


class Unfinished:
    """The snapshot of the run with this learning key. Nothing that goes wrong with it ends the run itself."""

    def __init__(self, concepts: Path, key: str) -> None:
        self.key, self.path = key, concepts / FOLDER / f"{key}{SUFFIX}"

    def found(self, start: Mapping[str, Tensor], recipe: Recipe) -> Snapshot | None:
        """What learning from these tensors can go on from. What cannot be used is named in the log and passed over."""
        if not self.path.exists():
            return None
        try:
            snapshot = parsed(self.path.read_bytes(), self.key)
            if not belongs(snapshot, start, recipe):
                raise ValueError("it belongs to other learning")
        except (OSError, ValueError) as error:
            log.warning(f"The snapshot {self.path.name} is passed over: {error}. Learning starts anew.")
            return None
        log.info(f"Learning goes on from step {snapshot.step} of {snapshot.steps}.")
        return snapshot

    def keep(self, snapshot: Snapshot) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, serialised(snapshot, self.key))
        except OSError as error:
            log.warning(f"No snapshot could be written ({error}): if ComfyUI is killed, this learning is lost.")

    def forget(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()  # only when it is empty

    def sweep(self) -> None:
        """Remove what nobody came back for, also what a crash left half-written."""
        for file in self.path.parent.glob("*"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > OLD:
                    file.unlink()


def serialised(snapshot: Snapshot, key: str) -> bytes:
    tensors = {name: tensor.contiguous() for name, tensor in snapshot.tensors.items()}
    digest = hashlib.sha256(_content(safetensors.save(tensors))).hexdigest()
    header = {"format": FORMAT, "key": key, "steps": snapshot.steps, "stage": snapshot.stage, "sha256": digest}
    return safetensors.save(tensors, {KEY: json.dumps(header)})


def parsed(data: bytes, key: str) -> Snapshot:
    """ValueError when anything is not as it was written, or was written for another key."""
    try:
        tensors = safetensors.load(data)
        header = json.loads(json.loads(data[8 : _start(data)])["__metadata__"][KEY])
        found = (header["format"], header["key"], header["sha256"])
        steps, stage = int(header["steps"]), int(header["stage"])
    except (SafetensorError, KeyError, TypeError, struct.error) as error:
        raise ValueError("it is damaged or no snapshot") from error
    if found != (FORMAT, key, hashlib.sha256(_content(data)).hexdigest()):
        raise ValueError("it is damaged, of another version, or of other learning")
    return Snapshot(steps, stage, tensors)


def _start(data: bytes) -> int:
    return 8 + struct.unpack("<Q", data[:8])[0]


def _content(data: bytes) -> bytes:
    return data[_start(data) :]
