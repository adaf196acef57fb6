"""python -m personalization learn | evaluate | info | export: concepts without a graph, from the pack's folder.

`learn` takes a folder per concept, named as its word; `class_word.txt` in it goes before --class-word. The same command
again goes on where it stopped. A folder that fails is listed at the end, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

import torch

from .checkpoint import load, read_info
from .concept import ROLES
from .exchange.exported import DIFFUSERS, EMBEDDING, KOHYA, exported
from .methods import AUTO, METHODS
from .recipe import BATCH_SIZE, LEARNING_RATE, STEPS, Range
from .wish import BUDGETS

FORMATS = {"embedding": EMBEDDING, "kohya": KOHYA, "diffusers": DIFFUSERS}
TERMS = ("prior-preservation", "self-regularisation", "attention-regulariser")
COUNT = Range(1, 1, 10_000, 1)
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str]) -> int:
    request = _parser().parse_args(argv)
    return {"learn": learn, "evaluate": evaluate, "info": info, "export": export}[request.command](request)


def learn(request: argparse.Namespace) -> int:
    if not request.share and request.devices > 1:
        return _on_every_device(request.devices)
    from tools import host

    catalogue = host.module("personalization.comfyui.catalogue")
    folders = shared(catalogue.folders_in(request.folder, request.output), request.share)
    request.output.mkdir(parents=True, exist_ok=True)
    failed = []
    asked = (folders, _wish(host, request), request.output, request.caption)
    for outcome in catalogue.learned(host.canvas(request.checkpoint), *asked):
        print(
            f"{outcome.folder.name}: {outcome.path.name if outcome.path else 'failed'}. {outcome.sentence}", flush=True
        )
        failed += [] if outcome.path else [outcome]
    for outcome in failed:
        print(f"Not learned: {outcome.folder}. {outcome.sentence}", file=sys.stderr, flush=True)
    return int(bool(failed))


def evaluate(request: argparse.Namespace) -> int:
    if request.json:
        _refuse_unwritable(request.json)
    from tools import host

    catalogue, trial = host.module("personalization.comfyui.catalogue"), host.module("personalization.comfyui.trial")
    canvas = host.canvas(request.checkpoint)
    vision = host.vision(request.clip_vision, playground=request.checkpoint is None)
    effort = trial.Effort(seeds=request.seeds, steps=request.steps)
    found = catalogue.evaluated(canvas, request.concept, request.folder, vision, effort)
    print("\n".join(filter(None, (found.card.table(), found.note))))
    if request.json:
        request.json.write_text(json.dumps(found.data(), indent=2), encoding="utf-8")
    return 0


def _refuse_unwritable(file: Path) -> None:
    """ValueError before anything is drawn."""
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(
            f"No scores can be written to '{file}'; a file in a folder that is there and may be written to is needed. "
            "Make its folder, or name another file with --json."
        )


def info(request: argparse.Namespace) -> int:
    for file in request.concepts:
        found = read_info(file)
        base = ", ".join(filter(None, (found.base.family, found.base.name)))
        print(f"{file.name}: <{found.placeholder}>, {found.class_word}, {found.role}, written as {found.phrase!r}")
        print(f"  by {found.method or 'an unknown method'} in {found.steps} steps, on {base}")
        told = {"note": found.note, "author": found.author, "license": found.license}
        for name in filter(told.get, told):
            print(f"  {name}: {told[name]}")
    return 0


def export(request: argparse.Namespace) -> int:
    path = request.output or request.concept.with_name(f"{request.concept.stem}-{request.format}.safetensors")
    made = exported(load(request.concept), FORMATS[request.format], path.stem)
    if path.exists():
        raise ValueError(f"The file '{path}' is there already; nothing is overwritten. Name another one with --output.")
    made.save(path)
    print(f"Saved as {path}. {made.sentence}")
    return 0


def shared(folders: Sequence[Path], share: str) -> list[Path]:
    """Every n-th folder from the k-th on, for a share "k/n"; all of them for ""."""
    first, _, of = share.partition("/")
    return list(folders[int(first) :: int(of)]) if share else list(folders)


def _on_every_device(devices: int) -> int:
    """One process per device, each with its share of the folders; 1 where one of them failed or was killed."""
    _refuse_more(devices)
    environments, processes = [_only(number) for number in range(devices)], []
    try:
        for number, environment in enumerate(environments):
            command = [sys.executable, "-m", __package__, *sys.argv[1:], "--share", f"{number}/{devices}"]
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return int(any([process.wait() for process in processes]))
    finally:
        for process in processes:
            process.terminate()  # nothing where it has ended; what it was learning goes on from its snapshot


def _only(number: int) -> dict[str, str]:
    """The environment of a process that sees this one of the devices."""
    return {**os.environ, **{name: visible_device(os.environ.get(name, ""), number) for name in VISIBLE}}


def visible_device(chosen: str, number: int) -> str:
    """Of the devices that the user has chosen already, else of all."""
    devices = _listed(chosen)
    return devices[number] if devices else str(number)


def _refuse_more(devices: int) -> None:
    """ValueError for more devices than are chosen or there; where there is none, processes share the CPU."""
    counts = [torch.cuda.device_count(), *(len(_listed(os.environ.get(name, ""))) for name in VISIBLE)]
    there = min(filter(None, counts), default=devices)
    if there < devices:
        raise ValueError(
            f"--devices asks for {devices} processes with a device each, and {there} can be seen. "
            f"Ask for at most {there}."
        )


def _listed(chosen: str) -> list[str]:
    return [one.strip() for one in chosen.split(",") if one.strip()]


def _wish(host, request: argparse.Namespace):
    words = (request.class_word, request.role, request.method, request.budget)
    numbers = (request.seed, request.train_steps, request.learning_rate, request.batch_size)
    terms = (term not in request.without for term in TERMS)
    wish = host.module("personalization.wish").Wish
    return wish("", *words, *numbers, request.attractor, request.soft_masks, *terms, request.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m personalization", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    learning = commands.add_parser("learn", help="a concept per folder")
    learning.add_argument("folder", type=_path, help="a folder with a folder per concept, or with pictures of one")
    learning.add_argument("--output", type=_path, default=ROOT / "output" / "concepts", help="where concepts go")
    learning.add_argument("--class-word", default="", help="what they show, as in: mug")
    learning.add_argument("--role", choices=ROLES, default="subject")
    learning.add_argument("--caption", action="store_true", help="captions from the model where pictures have none")
    learning.add_argument("--method", choices=(AUTO, *METHODS), default=AUTO)
    learning.add_argument("--budget", choices=tuple(BUDGETS), default="balanced")
    learning.add_argument("--seed", type=int, default=0)
    learning.add_argument("--steps", dest="train_steps", type=whole(STEPS), default=0, help="default: from the budget")
    learning.add_argument("--learning-rate", type=number(LEARNING_RATE), default=0.0, help="default: the method's")
    learning.add_argument("--batch-size", type=whole(BATCH_SIZE), default=0, help="default: the method's")
    learning.add_argument("--attractor", action="store_true", help="a word per picture takes what is not the subject")
    learning.add_argument("--soft-masks", action="store_true", help="masks from the model's own attention")
    learning.add_argument("--without", choices=TERMS, nargs="+", default=(), help="terms of the loss to leave out")
    learning.add_argument("--set", default="", metavar="SETTINGS", help='the method\'s own, as in: --set "rank=16"')
    learning.add_argument("--devices", type=whole(COUNT), default=1, help="processes, each on a device of its own")
    learning.add_argument("--share", default="", help=argparse.SUPPRESS)
    trying = commands.add_parser("evaluate", help="a concept against pictures of the same thing")
    trying.add_argument("concept", type=_path)
    trying.add_argument("folder", type=_path, help="pictures; those that were learned from, for gap and copies")
    trying.add_argument("--clip-vision", type=_path, help="without it a checkpoint's pictures are drawn, not scored")
    trying.add_argument("--seeds", type=whole(COUNT), default=2)
    trying.add_argument("--steps", type=whole(COUNT), default=10, help="of sampling")
    trying.add_argument("--json", type=_path, help="write the scores here")
    for one in (learning, trying):
        one.add_argument(
            "--checkpoint",
            type=_path,
            help="SD 1.5, SD 2 or SDXL, a file or a diffusers folder; default: the playground",
        )
    telling = commands.add_parser("info", help="what files say about themselves")
    telling.add_argument("concepts", type=_path, nargs="+")
    writing = commands.add_parser("export", help="an embedding or a LoRA, where a concept is one")
    writing.add_argument("concept", type=_path)
    writing.add_argument("format", choices=FORMATS)
    writing.add_argument("--output", type=_path, help="default: beside the concept")
    return parser


def number(of: Range, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """For argparse: a number of this kind and range, or the sentence that its refusal ends with."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if of.least <= (value := kind(text)) <= of.most:
                return value
        kinds = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(
            f"'{text}' was given; a {kinds} from {of.least:g} to {of.most:g} is needed. Give one, or leave it out."
        )

    return read


def whole(of: Range) -> Callable[[str], float]:
    return number(of, int)


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


if __name__ == "__main__":
    from tools.refusal import Refusal

    if isinstance(sys.stdout, TextIOWrapper):  # not every console has the letters of every name; stderr escapes them
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main(sys.argv[1:]))
    except (Refusal, ValueError, OSError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
