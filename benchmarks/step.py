"""`bench step`: what a training step costs, beside one forward and the backward through activations that it needs.

The floor is the unpatched model of the same process: forward, and backward to its text. Every row is a process of its
own, so that its peak memory is its own; between two of its steps it times forward and floor. The peer is ComfyUI's
Train LoRA with its defaults (bf16, gradient checkpointing), and with single settings changed. `--bf16` computes all of
it in bf16, as ComfyUI does on GPUs that have it: else the peer's bf16 stands beside a floor in fp32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import comfy.model_management as host
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args
from torch import Tensor

from ..personalization.comfyui.canvas import SIDES
from ..personalization.comfyui.memory import Way, room_for
from ..personalization.comfyui.session import Session, training_session
from ..personalization.comfyui.small_attention import small_attention
from ..personalization.latents import TrainingLatents
from ..personalization.learned import Event, Step
from ..personalization.learner import LearnTask, learn
from ..personalization.methods import Beginning, task_of
from ..personalization.prior import Prior
from ..personalization.recipe import recipe_for
from ..personalization.training_pass import PRIOR_SHARE
from ..playground import model as playground
from . import full_size
from .core_lora import DEFAULTS, train_lora
from .gauge import clock, device_name, forget_peak, on_gpu, peak_bytes, seconds, used_bytes
from .table import Table, arguments, print_table

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / ".loom" / "cache" / "random"
CHECKPOINTED = ("quick, checkpointed",)
OURS = ("quick", "layerwise", "nested", "textual inversion", "staged fast", *CHECKPOINTED)
CORE = {
    "core Train LoRA": {},
    "core Train LoRA, checkpointing off": {"gradient_checkpointing": False},
    "core Train LoRA, fp32, checkpointing off": {
        "gradient_checkpointing": False,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
    },
}
STEPS, QUICK_STEPS = 9, 3  # the first one warms up
BESIDE = 5  # steps between two looks at forward and floor, after the first three, each of which has one
ROUND = PRIOR_SHARE + 1  # ... and prior preservation comes round once in its share


class Machine(NamedTuple):
    """What is measured: a model as it lies on the canvas, and latents (n, c, h, w) of pictures."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    latents: Tensor


class Watch:
    """Times steps; between two of them forward and floor of the plain model, and notes the peak before these run."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.steps: list[float] = []
        self.forwards: list[float] = []
        self.floors: list[float] = []
        self.peak = 0
        self.predicted: int | None = None  # by what Learn Concept says beforehand
        self.began = clock()

    def step_taken(self) -> None:
        self.steps.append(clock() - self.began)
        self.peak = self.peak or peak_bytes()
        if len(self.steps) <= 3 or len(self.steps) % BESIDE == 0:
            forward, floor = plain(self.machine)
            with bare(self.machine.model.model):
                self.forwards.append(seconds(forward))
                self.floors.append(seconds(floor))
        self.began = clock()

    def figures(self) -> dict[str, float | None]:
        """The first of each warms up. Steps are averaged: not every one does the same."""
        return {
            "forward_s": median(self.forwards[1:]),
            "floor_s": median(self.floors[1:]),
            "step_s": fmean(self.steps[1:]),
            "peak_bytes": self.peak,
            "predicted_bytes": self.predicted,
        }


def plain(machine: Machine) -> tuple[Callable[[], object], Callable[[], object]]:
    """One forward of the model alone, and one with the backward through its activations."""
    model = machine.model
    device = model.load_device
    with torch.inference_mode(False):
        x, sigma = machine.latents[:1].to(device), torch.ones(1, device=device)
        context = torch.zeros(1, 77, model.model.model_config.unet_config["context_dim"], device=device)
        pooled = {"pooled_output": torch.zeros(1, 1280, device=device)}
        found = model.model.extra_conds(noise=x, device=device, prompt_type="positive", **pooled)
        conds = {key: one.process_cond(batch_size=1, area=None).cond for key, one in found.items()}

    # On a CPU our steps write short attention out, which is faster there: so does what they are compared with.
    options = {"optimized_attention_override": small_attention} if device.type == "cpu" else {}

    def run(text: Tensor) -> Tensor:
        return model.model.apply_model(x, sigma, c_crossattn=text, transformer_options={**options}, **conds)

    def forward() -> None:
        with torch.inference_mode(False), torch.no_grad():
            run(context)

    def floor() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            run(context.clone().requires_grad_()).float().square().mean().backward()

    return forward, floor


@contextmanager
def bare(network: torch.nn.Module) -> Iterator[None]:
    """Within, blocks run as ComfyUI wrote them, without what training put in their place."""
    stand_ins = [(module, module.__dict__.pop("forward")) for module in network.modules() if "forward" in vars(module)]
    try:
        yield
    finally:
        for module, forward in stand_ins:
            module.forward = forward


def machine_of(family: str, side: int, checkpoint: Path | None = None, bf16: bool = False) -> Machine:
    """Frozen weights that autograd may pass through: the canvas's own are what floor and forward run on."""
    args.bf16_unet = args.bf16_text_enc = bf16
    with torch.inference_mode(False):
        loaded = playground.load() if family == playground.FAMILY else _loaded(family, checkpoint)
        model, clip = loaded.model, loaded.clip
        if bf16:
            model.set_model_compute_dtype(torch.bfloat16)
        model.model.requires_grad_(False)
        host.load_models_gpu([model, clip.patcher], force_full_load=True)
        shape = (5, model.model.latent_format.latent_channels, side // 8, side // 8)
        return Machine(model, clip, torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def _loaded(family: str, checkpoint: Path | None) -> full_size.Loaded:
    """The user's own checkpoint, or one with random weights."""
    return full_size.opened(checkpoint) if checkpoint else full_size.load(family, CHECKPOINTS)


def measured(machine: Machine, method: str, steps: int) -> dict[str, float | None]:
    watch = Watch(machine)
    forget_peak()
    if method in CORE:
        _core(machine, CORE[method], steps, watch)
    else:
        _ours(machine, method.partition(",")[0], method in CHECKPOINTED, steps, watch)
    return watch.figures()


def _ours(machine: Machine, method: str, checkpoint: bool, steps: int, watch: Watch) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Step):
            watch.step_taken()

    with training_session(machine.model, machine.clip, checkpoint) as opened:
        task = _task(opened, machine.latents, method, steps)
        room = room_for(task, opened)
        watch.predicted = used_bytes() + room.needs(Way(checkpoint, 1)) - room.weights
        watch.began = clock()
        learn(task, on_event)


def _task(session: Session, latents: Tensor, method: str, steps: int) -> LearnTask:
    """As Learn Concept makes it, with batches of one; of staged methods their last stage."""
    base = session.denoiser.base
    recipe = recipe_for(method, base.family, "subject")
    recipe = replace(recipe, stages=recipe.stages[-1:], steps=steps, batch_size=1, dpp=0.0)
    count, _, *size = latents.shape
    shown = TrainingLatents(tuple(latents), tuple(torch.ones(count, 1, *size)), ("",) * count)
    beginning = Beginning(
        session.encoder, base, recipe, "mug", "mug", "subject", denoiser=session.denoiser, latents=shown
    )
    task = task_of(beginning, seed=0)
    dpp = recipe_for(method, base.family, "subject").dpp
    if not dpp:
        return task
    # its class pictures take hundreds of predictions to draw, once; here any will do
    prior = Prior(session.denoiser, session.encoder, latents)
    return replace(task, recipe=replace(recipe, dpp=dpp), prior=prior)


def _core(machine: Machine, changes: dict[str, Any], steps: int, watch: Watch) -> None:
    positive = machine.clip.encode_from_tokens_scheduled(machine.clip.tokenize("a photo of sks mug"))
    comfy.utils.set_progress_bar_global_hook(lambda *told, **named: watch.step_taken())
    try:
        watch.began = clock()
        with torch.inference_mode():  # as the host runs its nodes
            train_lora(machine.model, machine.latents, [positive], {**DEFAULTS, **changes, "steps": steps})
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


class RowFailed(Exception):
    """A row's process ended without its figures, as where memory ran out; a restart tries it again."""


class Wanted(NamedTuple):
    family: str
    quick: bool
    asked: int | None  # pixels
    checkpoint: Path | None = None
    bf16: bool = False
    rows: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        """Pixels."""
        if self.family == playground.FAMILY:
            return SIDES[self.family]
        return full_size.side_of(self.family, self.asked, self.quick)

    @property
    def methods(self) -> tuple[str, ...]:
        return self.rows or (*OURS, *list(CORE)[: 2 if self.quick else None])

    def steps(self, method: str) -> int:
        least = ROUND if method == "layerwise" else 0
        return max(least, QUICK_STEPS if self.quick else STEPS)


def in_a_process(wanted: Wanted, method: str) -> dict[str, float | None]:
    command = [sys.executable, str(ROOT / "dev.py"), "bench", "step", "--family", wanted.family, "--row", method]
    size = ["--side", str(wanted.side), *(["--quick"] if wanted.quick else []), *(["--bf16"] if wanted.bf16 else [])]
    own = ["--checkpoint", str(wanted.checkpoint)] if wanted.checkpoint else []
    done = subprocess.run([*command, *size, *own], capture_output=True, text=True)
    if done.returncode:
        raise RowFailed(f"it ended with {done.returncode}: {(done.stderr.splitlines() or [''])[-1][:200]}")
    return json.loads(done.stdout.splitlines()[-1])


def first_to_go() -> None:
    """Where memory runs out, this process is ended and nobody else's."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(argv: list[str]) -> int:
    parser = arguments("step", any_checkpoint=True)
    parser.add_argument("--family", choices=(*full_size.UNETS, playground.FAMILY), help="only this one")
    full_size.ask_side(parser)
    parser.add_argument("--bf16", action="store_true", help="weights and computation in bf16, as on most GPUs")
    parser.add_argument("--rows", nargs="+", choices=(*OURS, *CORE), metavar="ROW", help="only these")
    parser.add_argument("--sdxl", action="store_true", help="SDXL too; its weights take 10 GB in fp32")
    parser.add_argument("--row", choices=(*OURS, *CORE), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.row:
        first_to_go()
        wanted = Wanted(given.family, given.quick, given.side)
        machine = machine_of(given.family, wanted.side, given.checkpoint, given.bf16)
        print(json.dumps(measured(machine, given.row, wanted.steps(given.row))))
        return 0
    if given.checkpoint:
        given.family = full_size.family_in(given.checkpoint)
    families = [given.family] if given.family else ["SD 1.5", playground.FAMILY, *(["SDXL"] if given.sdxl else [])]
    about = {"bench": "step", "quick": given.quick, "side": given.side, "bf16": given.bf16}
    table = Table(given.json, about | ({"checkpoint": given.checkpoint.name} if given.checkpoint else {}))
    for family in families:
        _measure(table, Wanted(family, given.quick, given.side, given.checkpoint, given.bf16, tuple(given.rows or ())))
    table.values |= table.values.get(families[0], {})
    table.write()
    for family in families:
        show(table.values[family])
    return 0


def _measure(table: Table, wanted: Wanted) -> None:
    raw, failed = {}, {}
    for method in wanted.methods:
        key = f"{wanted.family}: {method}"
        try:
            raw[method] = table.once(key, lambda method=method: in_a_process(wanted, method))
        except RowFailed as error:
            failed[method] = str(error)
        print(f"{key}: {raw.get(method) or failed[method]}", flush=True)
    about = f"{wanted.family}, {wanted.side} px, batch 1{', bf16' if wanted.bf16 else ''}"
    table.values[wanted.family] = {"model": about, "device": device_name(), **compared(raw), "failed": failed}
    table.write()


def compared(raw: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Steps in units of their own process's floor; the peer's too, so that a busy machine does not tilt the ratio."""
    floors = {method: one["step_s"] / one["floor_s"] for method, one in raw.items()}
    peer = next(iter(CORE))
    rows = [
        {
            "method": method,
            "step_s": one["step_s"],
            "ratio_to_floor": round(floors[method], 3),
            "ratio_to_core": round(floors[method] / floors[peer], 3) if peer in floors else None,
            "peak_bytes": one["peak_bytes"],
            "predicted_bytes": one["predicted_bytes"],
            "core_peak_bytes": raw[peer]["peak_bytes"] if peer in raw else None,
        }
        for method, one in raw.items()
    ]
    return {name: median(one[name] for one in raw.values()) for name in ("forward_s", "floor_s")} | {"rows": rows}


def show(values: dict) -> None:
    where = "memory of the GPU" if on_gpu() else "resident memory of the whole process"
    print(
        f"{values['model']} on {values['device']}: forward {values['forward_s']:.2f} s, floor {values['floor_s']:.2f} s"
    )
    heads = ("step", "s", "x floor", "x core", "peak GB", "foretold", "x core's")
    rows = [
        (
            row["method"],
            *(row[name] for name in ("step_s", "ratio_to_floor", "ratio_to_core")),
            row["peak_bytes"] / 1e9,
            row["predicted_bytes"] and row["predicted_bytes"] / 1e9,
            row["core_peak_bytes"] and row["peak_bytes"] / row["core_peak_bytes"],
        )
        for row in values["rows"]
    ]
    print_table(heads, rows)
    print(f"Peaks are {where}.")
    for method, why in values["failed"].items():
        print(f"{method} did not run: {why}")
    print(flush=True)
