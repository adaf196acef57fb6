"""The interpreter for everything: the one that already runs the user's ComfyUI, else `.loom/env`, made here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from . import comfyui, disk, lock
from .places import LOOM, ROOT
from .refusal import Refusal

ENV = LOOM / f"env{comfyui.SUFFIX}"  # releases pin other versions of the same packages
PYTHON = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENV / "concept-loom.txt"
LOG = LOOM / "setup.log"
FREE_GB, FREE_GB_CUDA = 5, 10  # the second is what pip may bring on Linux; reckoned, not measured

# One command, exactly pinned: torchvision pins torch, and a range may fetch another build of several gigabytes.
TORCH = ("torch==2.13.0", "torchvision==0.28.0")
TORCHAUDIO = "torchaudio==2.11.0"
COMFYUI_IMPORTS = ("torch", "torchvision", "torchaudio", "torchsde", "transformers", "safetensors", "aiohttp", "yaml")

NO_NETWORK = (
    "NewConnectionError|NameResolutionError|Connection refused|ConnectTimeout|unreachable|ProxyError|name resolution"
)
WRONG_HASH = r"^\s*Got\s+([0-9a-f]{64})$"
FULL = (
    f"The disk of {ROOT} became full during the set-up, which needs {FREE_GB} GB, or about {FREE_GB_CUDA} GB where pip "
    "brings a build of torch for CUDA. Make room and run this again."
)
WAITING = f"Another set-up is at work in {LOOM}; waiting until it is done."


class Step(NamedTuple):
    title: str
    run: Callable[[], None]


def interpreter() -> Path:
    """Set up on first use; a later call only compares a stamp."""
    if comfyui.of_the_user() and all(map(find_spec, COMFYUI_IMPORTS)):
        return Path(sys.executable)
    if not _is_ready():
        with lock.alone(LOOM / "setup.lock", WAITING):
            if not _is_ready():  # by now, by another process
                _set_up()
    return PYTHON


def is_running(python: Path) -> bool:
    return python == Path(sys.executable) or Path(sys.prefix).resolve() == ENV.resolve()


def rerun(python: Path, arguments: list[str]) -> int:
    if os.name != "nt":
        os.execv(python, [str(python), *arguments])
    return subprocess.call([str(python), *arguments])  # os.execv would give the prompt back at once on Windows


def has(package: str) -> bool:
    return find_spec(package) is not None


def _is_ready() -> bool:
    requirements = comfyui.find() / "requirements.txt"
    return _is_of_this_python() and requirements.exists() and _read(STAMP) == _wanted()


def _is_of_this_python() -> bool:
    """After an upgrade of Python its packages are not found, or its interpreter is gone."""
    made_by = re.search(r"^version = (\d+)\.(\d+)", _read(ENV / "pyvenv.cfg"), re.M)
    return PYTHON.exists() and made_by is not None and tuple(map(int, made_by.groups())) == sys.version_info[:2]


def _wanted() -> str:
    lines = [
        *TORCH,
        TORCHAUDIO,
        *_tools(),
        _read(comfyui.find() / "requirements.txt"),
        _read(ROOT / "requirements.txt"),
    ]
    return "\n".join(lines)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _tools() -> list[str]:
    """The extras of pyproject.toml, by a pattern: Python 3.10 has no TOML reader."""
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)^\[", _read(ROOT / "pyproject.toml"), re.M | re.S)
    return re.findall(r'"([^"]+)"', extras[1]) if extras else []


def _set_up() -> None:
    _check_space()
    print(f"First set-up, some minutes and about 3 GB in {LOOM} (a build of torch for CUDA needs more).", flush=True)
    try:
        _take(_steps())
    except BaseException:
        print(flush=True)
        _discard()
        raise
    STAMP.write_text(_wanted(), encoding="utf-8")


def _take(steps: list[Step]) -> None:
    for number, step in enumerate(steps, 1):
        print(f"{number}/{len(steps)} {step.title} ... ", end="", flush=True)
        start = time.monotonic()
        step.run()
        print(f"{time.monotonic() - start:.0f} s", flush=True)


def _steps() -> list[Step]:
    # Without a stamp an environment was cut short: it is made anew. With another stamp it is brought up to date.
    make = [] if STAMP.exists() and _is_of_this_python() else [Step("virtual environment", _make)]
    fetch = [] if comfyui.is_comfyui(comfyui.find()) else [Step(f"ComfyUI {comfyui.VERSION}", _fetch)]
    return [
        *make,
        Step("torch and torchvision", lambda: _pip("install", *TORCH)),
        Step("torchaudio", _install_torchaudio),
        *fetch,
        Step("what ComfyUI requires", lambda: _pip("install", "-r", str(comfyui.find() / "requirements.txt"))),
        Step("this pack, tests and checks", lambda: _pip("install", "-r", str(ROOT / "requirements.txt"), *_tools())),
    ]


def _check_space() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < FREE_GB:
        raise Refusal(
            f"{free:.1f} GB are free on the disk of {ROOT}; the set-up needs {FREE_GB} GB. "
            "Make room, or set COMFYUI_PATH and use the Python that runs your own ComfyUI."
        )


def _make() -> None:
    LOG.unlink(missing_ok=True)
    try:
        venv.EnvBuilder(clear=True, with_pip=True).create(ENV)
    except (subprocess.CalledProcessError, OSError) as error:
        if disk.is_full(error):
            raise Refusal(FULL) from error
        raise Refusal(
            f"{sys.executable} cannot make a virtual environment ({error}). Its modules venv and ensurepip are needed. "
            "On Debian and Ubuntu install python3-venv, or use a Python from python.org."
        ) from error


def _install_torchaudio() -> None:
    _pip("install", "--no-deps", TORCHAUDIO)
    if subprocess.run([PYTHON, "-c", "import torchaudio"], capture_output=True).returncode:
        for extension in ENV.rglob("torchaudio/lib/*torchaudio*"):  # built for CUDA, and torchaudio works without it
            extension.unlink()


def _fetch() -> None:
    comfyui.fetch(lambda *arguments: _pip("download", *arguments))


def _pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check", "--retries", "2", *arguments]
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ pip {' '.join(arguments)}\n")
        log.flush()
        failed = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if failed:
        raise Refusal(_reason(LOG.read_text(encoding="utf-8", errors="replace")))  # pip has the system's own encoding


def _discard() -> None:
    """Leave nothing that could be taken for an environment; one that was once complete is kept, and tried again."""
    if not STAMP.exists():
        shutil.rmtree(ENV, ignore_errors=True)
    shutil.rmtree(LOOM / f"comfyui{comfyui.SUFFIX}.part", ignore_errors=True)


def _reason(log: str) -> str:
    last = log.rpartition("\n$ pip ")[2]
    if disk.says_full(last):
        return FULL
    if changed := re.search(WRONG_HASH, last, re.M):
        return comfyui.changed(changed[1])
    if re.search(NO_NETWORK, last):
        return (
            "pip cannot reach its package index; the first set-up needs the network. "
            "Connect (or set pip's proxy) and run this again."
        )
    errors = re.findall(r"^ERROR: .+", last, re.M) or last.splitlines()[-1:]
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"pip stopped with: {' '.join(errors[-2:])} (Python {python}). "
        f"Everything it said is in {LOG}. Mend that and run this again."
    )
