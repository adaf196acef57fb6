"""The pack as the module `concept_loom`, and ComfyUI importable, in a process that is not ComfyUI.

ComfyUI loads the pack by its folder under a name of its own; tests, benchmarks and scripts need one fixed name.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from . import comfyui, torch_build
from .places import ROOT, RUN

NAME = "concept_loom"


def load_pack() -> None:
    """After this, `from concept_loom.personalization...` and `import comfy...` work."""
    register_pack()
    attach_comfyui(cpu=not torch_build.has_accelerator())


def register_pack() -> None:
    if NAME in sys.modules:
        return
    torch_build.make_torchvision_importable()
    _hide_root()
    spec = spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


def _hide_root() -> None:
    """With the root on sys.path our nodes/ would stand in for ComfyUI's nodes.py."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


def attach_comfyui(cpu: bool) -> None:
    """Put ComfyUI on sys.path and give it the arguments of a server; it reads them once, when first imported."""
    folder = str(comfyui.find())
    if folder in sys.path:
        return
    torch_build.make_torchvision_importable()
    sys.path.insert(0, folder)
    base = RUN / "imported"
    base.mkdir(parents=True, exist_ok=True)
    _parse(["main.py", *comfyui.arguments(base, cpu)])


def _parse(arguments: list[str]) -> None:
    import comfy.options

    comfy.options.enable_args_parsing()
    ours, sys.argv = sys.argv, arguments
    try:
        import comfy.cli_args  # noqa: F401
    finally:
        sys.argv = ours
