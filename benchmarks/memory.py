"""`bench memory`: what learning is foretold to need on full-size models, and how it would fit cards of 12 and 8 GB.

No step is taken: one forward per stage counts what autograd would keep (footprint.py), on the device that is there, in
bf16. It is the sentence that Learn Concept says before its first step. A GPU's attention may keep less than a CPU's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from comfy.cli_args import args
from torch import Tensor

from ..personalization.augment import TrainingLatents
from ..personalization.comfyui.canvas import SIDES
from ..personalization.comfyui.memory import Room, Way, room_for
from ..personalization.comfyui.session import Session, training_session
from ..personalization.methods import Beginning, task_of
from ..personalization.recipe import recipe_for
from . import full_size
from .gauge import device_name
from .step import machine_of
from .table import Table, arguments, print_table

METHODS = ("quick", "layerwise", "staged fast")
CARD, SMALL_CARD = int(12e9), int(8e9)  # bytes; on the small one weights may wait in main memory


def main(argv: list[str]) -> int:
    parser = arguments("memory")
    parser.add_argument("--family", choices=tuple(full_size.UNETS), nargs="+", default=["SD 1.5", "SDXL"])
    parser.add_argument("--side", type=int, help="pixels; by default what the family was trained at, --quick the half")
    wanted = parser.parse_args(argv)
    args.bf16_unet = args.bf16_text_enc = True
    table = Table(wanted.json, {"bench": "memory", "quick": wanted.quick, "side": wanted.side})
    table.values["device"] = device_name()
    for family in wanted.family:
        table.once(family, lambda family=family: list(_rows(family, _side(family, wanted))))
        show(family, table.values[family])
    return 0


def _side(family: str, wanted: argparse.Namespace) -> int:
    return wanted.side or SIDES[family] // (2 if wanted.quick else 1)


def _rows(family: str, side: int) -> Iterator[dict[str, Any]]:
    machine = machine_of(family, side)
    machine.model.set_model_compute_dtype(torch.bfloat16)  # as on a GPU that has it
    for method in METHODS:
        with training_session(machine.model, machine.clip) as session:
            size, room = _asked(session, machine.latents, method)
        yield {"method": method, "side": side, "pictures": size, **_foretold(room, size)}


def _asked(session: Session, latents: Tensor, method: str) -> tuple[int, Room]:
    """The pictures per step that the method asks for, and the room that it has; pictures of the class take no more."""
    base = session.denoiser.base
    recipe = replace(recipe_for(method, base.family, "subject"), dpp=0.0)
    shown = TrainingLatents(tuple(latents[:1]), (latents.new_ones(1, *latents.shape[2:]),), ("",))
    words = ("mug", "mug", "subject")
    beginning = Beginning(session.encoder, base, recipe, *words, denoiser=session.denoiser, latents=shown)
    return recipe.batch_size, room_for(task_of(beginning, seed=0), session)


def _foretold(room: Room, size: int) -> dict[str, Any]:
    return {
        "weights_bytes": room.weights,
        "one_picture_bytes": room.needs(Way(False, 1)),
        "one_picture_computed_twice_bytes": room.needs(Way(True, 1)),
        "on_12_gb": _on(room._replace(total=CARD, movable=0), size),
        "on_8_gb": _on(room._replace(total=SMALL_CARD, movable=room.weights), size),
    }


def _on(card: Room, size: int) -> str:
    return card.sentence(card.best(size), size)


def show(family: str, rows: list[dict[str, Any]]) -> None:
    names = ("weights_bytes", "one_picture_bytes", "one_picture_computed_twice_bytes")
    heads = (f"{family}, {rows[0]['side']} px", "weights GB", "1 picture", "computed twice")
    print_table(heads, [(row["method"], *(row[name] / 1e9 for name in names)) for row in rows])
    for row in rows:
        print(f"{row['method']}: {row['on_12_gb']} {row['on_8_gb']}")
    print(flush=True)
