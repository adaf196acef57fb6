"""python tools/run_comfyui.py COMFYUI [arguments]: ComfyUI's main.py, also on a CPU build of torch."""

import runpy
import sys
from pathlib import Path


def main(comfyui: str, arguments: list[str]) -> None:
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [comfyui, *(entry for entry in sys.path if entry != here)]
    sys.argv = [str(Path(comfyui, "main.py")), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    import torch_build

    torch_build.make_torchvision_importable()
    main(sys.argv[1], sys.argv[2:])
