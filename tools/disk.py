"""A full disk, which any write can meet: known by what the system, Python or pip says, and told in one sentence."""

from __future__ import annotations

import re

from .places import LOOM, OUTPUT

NO_SPACE = "No space left on device|Errno 28|not enough space on the disk|WinError 112|quota exceeded"


def is_full(error: BaseException) -> bool:
    """Also of errors that only quote the cause: shutil.Error, and what a process wrote before it failed."""
    return says_full(f"{error} {getattr(error, 'output', '')}")


def says_full(text: str) -> bool:
    return bool(re.search(NO_SPACE, text))


def sentence(error: OSError) -> str:
    at = f" at {error.filename}" if error.filename else ""
    return (
        f"The disk became full{at}. This command needs room in {LOOM}, {OUTPUT} and the folder for temporary files. "
        "Make room there and run this again."
    )
