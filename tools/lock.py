"""One process at a time: a lock on a file, which the system releases when its process ends, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

WAIT = 0.5  # seconds between two looks


@contextmanager
def alone(file: Path, waiting: str) -> Iterator[None]:
    """Holds `file`'s lock; prints `waiting` once where another process has it. A file system without locks has none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as held:
        if not _take(held):
            print(waiting, flush=True)
            while not _take(held):
                time.sleep(WAIT)
        yield  # closing the file gives the lock back


def _take(held: IO[str]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            held.seek(0)
            msvcrt.locking(held.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what POSIX and Windows raise where it is taken
        return False
    except OSError:  # no locks here
        return True
    return True
