"""A real ComfyUI server with a copy of this pack in it, as a context manager."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import comfyui, torch_build
from .places import ROOT
from .refusal import Refusal

HOST = "127.0.0.1"
NOT_COPIED = shutil.ignore_patterns(".*", "output", "tests", "benchmarks", "__pycache__", "node_modules", "*.pyc")
BOOT_SECONDS = 300
TAIL_LINES = 25


@dataclass(frozen=True)
class Launch:
    """`base` holds the run's own models, input, output, user folders; `models` are more folders of models, by kind."""

    base: Path
    port: int
    cpu: bool
    models: Mapping[str, Path] = field(default_factory=dict)


class Server:
    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.address = f"http://{HOST}:{launch.port}"
        self.log = launch.base / "comfyui.log"

    def __enter__(self) -> Server:
        _install_pack(self.launch.base)
        with self.log.open("wb") as log:
            streams = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(_command(self.launch), cwd=self.launch.base, **streams)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def wait(self) -> None:
        """Until it ends by itself, which it should not."""
        code = self.process.wait()
        raise Refusal(f"ComfyUI stopped with exit status {code}; it has to run until this command ends. {self._see()}")

    def _see(self) -> str:
        return f"Mend what the end of {self.log} names, and run this again:\n{self.tail()}"

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        while not _answers(self.address):
            if self.process.poll() is not None:
                self.wait()
            if time.monotonic() > end:
                raise Refusal(f"ComfyUI did not answer in {BOOT_SECONDS} s; it has to by then. {self._see()}")
            time.sleep(0.2)

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        if os.name != "nt":  # on Windows the option means the opposite: share a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", "there is none")
            raise Refusal(
                f"Port {wanted} on {HOST} cannot be had ({reason}). A free one from 1 to 65535 is needed: "
                "give another --port, or leave it out and one is chosen."
            ) from error
        return probe.getsockname()[1]


def launch(base: Path, port: int | None = None, models: Mapping[str, Path] | None = None) -> Launch:
    return Launch(base, free_port(port), not torch_build.has_accelerator(), models or {})


def _command(launch: Launch) -> list[str]:
    folder = comfyui.find()
    script = [sys.executable, "-u", str(ROOT / "tools" / "run_comfyui.py"), str(folder)]
    extra = []
    if launch.models:
        extra = ["--extra-model-paths-config", str(_write_model_paths(launch.base, launch.models))]
    return [*script, *comfyui.arguments(launch.base, launch.cpu), "--port", str(launch.port), *extra]


def _write_model_paths(base: Path, models: Mapping[str, Path]) -> Path:
    file = base / "model_paths.yaml"  # JSON is YAML
    file.write_text(json.dumps({"given": {kind: str(folder) for kind, folder in models.items()}}), encoding="utf-8")
    return file


def _install_pack(base: Path) -> None:
    target = base / "custom_nodes" / "concept-loom"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT, target, ignore=NOT_COPIED)


def _answers(address: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{address}/system_stats", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
