"""The commands of dev.py, inside the environment: (own arguments, the rest) -> exit status."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import webbrowser
from argparse import Namespace
from contextlib import suppress

from . import compatibility, environment, pack, quickstart, server
from .client import Client
from .places import LOOM, ROOT, RUN
from .refusal import Refusal

RINGS = ("pure", "comfy", "server")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def demo(request: Namespace, rest: list[str]) -> int:
    base = RUN / "demo"
    _check(request)
    words = request.class_word, request.placeholder
    wanted = quickstart.Quickstart(request.images, *words, request.checkpoint, request.clip_vision)
    with _server(server.launch(base, request.port, wanted.models())) as running, Client(running.address) as client:
        for result in quickstart.run(client, base, wanted):
            print(result)
    return 0


def _check(request: Namespace) -> None:
    if request.images and not request.images.is_dir():
        raise Refusal(f"--images is {request.images}, which is no folder. Name a folder with 3 to 20 pictures.")
    if request.images and not request.class_word:
        raise Refusal("--images is there without --class-word. Learning needs a word for what the pictures show: mug.")
    if request.checkpoint and not request.checkpoint.is_file():
        raise Refusal(f"--checkpoint is {request.checkpoint}, which is no file. Name an SD 1.5 or SDXL checkpoint.")
    if request.clip_vision and not request.checkpoint:
        raise Refusal(
            "--clip-vision is there without --checkpoint. The playground has an image encoder of its own; name a "
            "checkpoint too, or leave it out."
        )
    if request.clip_vision and not request.clip_vision.is_file():
        raise Refusal(f"--clip-vision is {request.clip_vision}, which is no file. Name a CLIP vision encoder.")


def serve(request: Namespace, rest: list[str]) -> int:
    with _server(server.launch(RUN / "serve", request.port)) as running:
        print(f"{running.address}  (Ctrl-C ends it; its log is {running.log})", flush=True)
        if not request.no_browser:
            _open(running.address)
        running.wait()
    return 0


def _open(address: str) -> None:
    """In the default browser where there is a display; without one it would be a browser of text, in this terminal."""
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with suppress(webbrowser.Error, OSError):  # the address is printed already
            webbrowser.open(address)


def promises(request: Namespace, rest: list[str]) -> int:
    with _server(server.launch(RUN / "promises")) as running, Client(running.address) as client:
        found = json.loads(client.post("/concept_loom/check", {}))
    print(f"ComfyUI {found['ComfyUI']}, torch {found['torch']}, {found['device']}")
    for one in found["promises"]:
        print(one["sentence"])
    return 0 if found["holds"] else 1


def _server(launch: server.Launch) -> server.Server:
    print(f"ComfyUI starts on {server.HOST}:{launch.port}, on the {'CPU' if launch.cpu else 'GPU'} ...", flush=True)
    return server.Server(launch)


def test(request: Namespace, rest: list[str]) -> int:
    _require("pytest")
    chosen = any((ROOT / argument.partition("::")[0]).exists() for argument in rest)
    return _call("-m", "pytest", *([] if chosen else _rings()), *rest)


def _rings() -> list[str]:
    """The browser's ring where there is one, and what drives it."""
    missing = [] if environment.has("playwright") else ["Playwright"]
    missing += [] if any(map(shutil.which, BROWSERS)) else ["Chromium"]
    if missing:
        print(f"{' and '.join(missing)} not installed: tests/browser were left out.", flush=True)
    rings = RINGS if missing else (*RINGS, "browser")
    return [f"tests/{ring}" for ring in rings if (ROOT / "tests" / ring).is_dir()]


def check(request: Namespace, rest: list[str]) -> int:
    _require("ruff", "pyright")
    types = ("pyright", "--pythonpath", sys.executable)
    failed = [_call("-m", *tool) for tool in (("ruff", "format", "--check"), ("ruff", "check"), types)]
    return int(any([*failed, _node_test()]))


def _node_test() -> int:
    node, files = shutil.which("node"), sorted(map(str, (ROOT / "tests" / "js").glob("*.test.mjs")))
    if not node:
        print("node is not installed: tests/js were left out.")
    return subprocess.call([node, "--test", *files], cwd=ROOT) if node and files else 0


def bench(request: Namespace, rest: list[str]) -> int:
    if not (ROOT / "benchmarks" / f"{request.name}.py").is_file():
        known = ", ".join(sorted(file.stem for file in (ROOT / "benchmarks").glob("[!_]*.py")))
        raise Refusal(f"There is no benchmark {request.name!r}. Those in benchmarks/ are: {known}. Name one of them.")
    pack.load_pack()
    return importlib.import_module(f"{pack.NAME}.benchmarks.{request.name}").main(rest) or 0


def train(request: Namespace, rest: list[str]) -> int:
    pack.load_pack()
    folders = ["--cache", str(LOOM / "cache" / "playground"), "--weights", str(ROOT / "playground" / "weights")]
    importlib.import_module(f"{pack.NAME}.playground.train").main([*folders, *rest])
    return 0


def docs(request: Namespace, rest: list[str]) -> int:
    pack.load_pack()
    compatibility.write()
    return 0


def _require(*packages: str) -> None:
    missing = [package for package in packages if not environment.has(package)]
    if missing:
        raise Refusal(
            f"The Python of your ComfyUI ({sys.executable}) has no {' and no '.join(missing)}, which this command "
            f"needs; nothing is installed into it by itself. Run: {sys.executable} -m pip install {' '.join(missing)}"
        )


def _call(*arguments: str) -> int:
    return subprocess.call([sys.executable, *arguments], cwd=ROOT)


COMMANDS = {
    "demo": demo,
    "serve": serve,
    "promises": promises,
    "test": test,
    "check": check,
    "bench": bench,
    "train": train,
    "docs": docs,
}
