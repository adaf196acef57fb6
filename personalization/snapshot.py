"""Snapshots: learning between two steps as plain tensors, from which it goes on as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, float64

from .learned import Held
from .learning_state import Kept, LearningState, copies, fresh_optimizer
from .recipe import Recipe

PARAMETER, BEST, OPTIMIZER = "parameter.", "best.", "optimizer."


class Snapshot(NamedTuple):
    """`steps` were planned, which a budget in seconds would not say twice; `tensors` are copies on the CPU."""

    steps: int
    stage: int
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        return len(self.tensors["losses"])


def taken(state: LearningState, steps: int) -> Snapshot:
    kept, held = state.kept, [(one.step, one.loss, one.best) for one in state.held]
    baseline = {} if state.baseline is None else {"baseline": state.baseline}
    tensors = {
        **{PARAMETER + name: tensor for name, tensor in state.parameters.items()},
        **{BEST + name: tensor for name, tensor in kept.tensors.items()},
        **dict(_optimizer_tensors(state.optimizer)),
        **baseline,
        "kept": torch.tensor([kept.step, kept.loss], dtype=float64),
        "random": state.random,
        "losses": torch.tensor(state.losses, dtype=float64),
        "held": torch.tensor(held, dtype=float64).view(-1, 3),
    }
    return Snapshot(steps, state.stage, copies(tensors))


def belongs(snapshot: Snapshot, start: Mapping[str, Tensor], recipe: Recipe) -> bool:
    """Whether learning that starts with these tensors by `recipe` can go on from here."""
    shapes = {name: tensor.shape for name, tensor in start.items()}
    alike = (
        {name: tensor.shape for name, tensor in _under(prefix, snapshot)} == shapes for prefix in (PARAMETER, BEST)
    )
    return all(alike) and 0 <= snapshot.stage < len(recipe.stages) and snapshot.step <= snapshot.steps


def restored(snapshot: Snapshot, start: Mapping[str, Tensor], recipe: Recipe, device: torch.device) -> LearningState:
    tensors = snapshot.tensors
    parameters = {name: tensors[PARAMETER + name].to(device, copy=True) for name in start}
    optimizer = fresh_optimizer(parameters, recipe.stages[snapshot.stage], recipe)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(snapshot)})
    step, loss = tensors["kept"].tolist()
    return LearningState(
        parameters,
        tensors["random"].clone(),
        Kept(int(step), loss, copies(dict(_under(BEST, snapshot)))),
        optimizer,
        snapshot.stage,
        tensors.get("baseline"),
        tensors["losses"].tolist(),
        [Held(int(step), loss, bool(best)) for step, loss, best in tensors["held"].tolist()],
    )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for number, own in optimizer.state_dict()["state"].items():
        for name, tensor in own.items():
            yield f"{OPTIMIZER}{number}.{name}", tensor


def _optimizer_state(snapshot: Snapshot) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _under(OPTIMIZER, snapshot):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor.clone()  # the optimiser moves it in place
    return state


def _under(prefix: str, snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in snapshot.tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
