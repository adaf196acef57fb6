"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def must_be_writable(folder: Path) -> None:
    """ValueError with advice where no file can be written into `folder`, which is made if need be."""
    probe = folder / f".{uuid.uuid4().hex[:8]}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {folder}: {error.strerror or error}. What is learned needs a place there. "
            "Allow ComfyUI to write to it, or start it with another --output-directory."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write the file under its final name only when it is complete on disk."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
