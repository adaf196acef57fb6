"""`bench memory`: what learning is foretold to need on full-size models, and how it would fit cards of 12 and 8 GB.

One forward per stage counts what autograd would keep (footprint.py), in bf16. It is the sentence that Learn Concept
says before its first step. `--measured` takes a step as well, on a second device (second_device.py), and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..personalization.comfyui.gradient_checkpoint import checkpointed
from ..personalization.comfyui.memory import Offload, Room, Way, room_for
from ..personalization.comfyui.session import Session, training_session
from ..personalization.latents import TrainingLatents
from ..personalization.learner import LearnTask, learn
from ..personalization.methods import Beginning, task_of
from ..personalization.recipe import recipe_for
from . import full_size
from .card import card
from .gauge import device_name
from .step import Machine, machine_of
from .table import Table, arguments, print_table

IN_UNET = ("quick", "layerwise")  # nothing in the text encoders is learned
METHODS = (*IN_UNET, "staged fast")
CARD, SMALL_CARD = int(12e9), int(8e9)  # bytes; on the small one weights may wait in main memory


def main(argv: list[str]) -> int:
    parser = arguments("memory")
    parser.add_argument("--family", choices=tuple(full_size.UNETS), nargs="+", default=["SD 1.5", "SDXL"])
    full_size.ask_side(parser)
    parser.add_argument("--measured", action="store_true", help="also takes steps, which is slow without a GPU")
    wanted = parser.parse_args(argv)
    table = Table(
        wanted.json, {"bench": "memory", "quick": wanted.quick, "side": wanted.side, "measured": wanted.measured}
    )
    table.values["device"] = device_name()
    for family in wanted.family:
        side = full_size.side_of(family, wanted.side, wanted.quick)
        table.once(family, lambda family=family, side=side: list(_rows(family, side, wanted.measured)))
        show(family, table.values[family])
    return 0


def _rows(family: str, side: int, measured: bool) -> Iterator[dict[str, Any]]:
    machine = machine_of(family, side, bf16=True)  # as on a GPU that has it
    for method in METHODS:
        with training_session(machine.model, machine.clip) as session:
            size, room = _asked(session, machine.latents, method)
        told = {"method": method, "side": side, "pictures": size, **_foretold(room, size)}
        yield told | ({"measured": _measured(machine, method, room)} if measured else {})


def _asked(session: Session, latents: Tensor, method: str) -> tuple[int, Room]:
    """The pictures per step that the method asks for, and the room that it has."""
    size = recipe_for(method, session.denoiser.base.family, "subject").batch_size
    return size, room_for(_task(session, latents, method), session)


def _task(session: Session, latents: Tensor, method: str) -> LearnTask:
    """A step on one picture per stage; pictures of the class take no more."""
    base = session.denoiser.base
    recipe = recipe_for(method, base.family, "subject")
    stages = tuple(replace(stage, share=1.0) for stage in recipe.stages)
    recipe = replace(recipe, stages=stages, steps=len(stages), batch_size=1, dpp=0.0)
    shown = TrainingLatents(tuple(latents[:1]), (latents.new_ones(1, *latents.shape[2:]),), ("",))
    words = ("mug", "mug", "subject")
    beginning = Beginning(session.encoder, base, recipe, *words, denoiser=session.denoiser, latents=shown)
    return task_of(beginning, seed=0)


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


def _measured(machine: Machine, method: str, room: Room) -> dict[str, list[int]]:
    """What was foretold of a step on one picture, and the most that the second device held, whose kernels copy nothing.

    Views have storages of their own there, so that casts of a text encoder that is learned through are kept, which a
    real device makes again (recast.py): with waiting weights, which are all such casts, that would be measured.
    """
    room = room._replace(movable=room.weights)
    ways = {"plain": Way(False, 1), "computed twice": Way(True, 1), "waiting": Way(True, 1, Offload.ALL)}
    if method not in IN_UNET:
        del ways["waiting"]
    return {name: [room.needs(way) - room.copied, _peak(machine, method, room, way)] for name, way in ways.items()}


def _peak(machine: Machine, method: str, room: Room, way: Way) -> int:
    with card(machine.model, machine.clip.patcher) as memory, training_session(machine.model, machine.clip) as session:
        session.weights.wait(room.waiting(way))
        memory.peak = memory.held
        with checkpointed(session.denoiser.network) if way.checkpoint else nullcontext():
            learn(replace(_task(session, machine.latents, method), keep_every=1e9))
        return memory.peak


def show(family: str, rows: list[dict[str, Any]]) -> None:
    names = ("weights_bytes", "one_picture_bytes", "one_picture_computed_twice_bytes")
    heads = (f"{family}, {rows[0]['side']} px", "weights GB", "1 picture", "computed twice")
    print_table(heads, [(row["method"], *(row[name] / 1e9 for name in names)) for row in rows])
    for row in rows:
        for way, (told, peak) in row.get("measured", {}).items():
            print(
                f"{row['method']}, {way}: foretold {told / 1e9:.2f} GB, held {peak / 1e9:.2f}, {told / peak:.2f} of it"
            )
        print(f"{row['method']}: {row['on_12_gb']} {row['on_8_gb']}")
    print(flush=True)
