"""Which torch is installed, read from its version file: importing torch takes seconds and fixes its settings."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# torchvision's CUDA build on a CPU build of torch loads no operators, yet its fake registrations name these two.
MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
ASK_TORCH = "import torch; raise SystemExit(not torch.accelerator.is_available())"
_alive: list[object] = []


def version(package: str) -> str:
    """The build's version with its local part, as in 2.13.0+cpu; empty where the package is absent."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    found = re.search(r"__version__ = '(.+)'", (Path(spec.origin).parent / "version.py").read_text())
    return found[1] if found else ""


def make_torchvision_importable() -> None:
    """To be called before the first `import torchvision`; does nothing unless a CUDA build meets a CPU torch."""
    if _alive or "+cu" in version("torch") or "+cu" not in version("torchvision"):
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in MISSING_OPERATORS:
        library.define(operator)
    _alive.append(library)


@cache
def has_accelerator() -> bool:
    if "+cpu" in version("torch"):
        return False
    return subprocess.run([sys.executable, "-c", ASK_TORCH], capture_output=True).returncode == 0
