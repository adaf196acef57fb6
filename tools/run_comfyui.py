"""python tools/run_comfyui.py COMFYUI [arguments]: ComfyUI's main.py, also on a CPU build of torch.

It ends when its standard input does, so that it never outlives the one who started it, however that one ended.
"""

import os
import runpy
import sys
import threading
from pathlib import Path


def main(comfyui: str, arguments: list[str]) -> None:
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [comfyui, *(entry for entry in sys.path if entry != here)]
    sys.argv = [str(Path(comfyui, "main.py")), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    import torch_build

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    torch_build.make_torchvision_importable()
    main(sys.argv[1], sys.argv[2:])
