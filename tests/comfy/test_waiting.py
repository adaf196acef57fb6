"""A training step asks no tensor for its content: on a GPU the host would wait there, and the GPU for it afterwards.

That the loss is read at its end is the loop's (`_finite` in learner.py), and of the copies to a GPU nothing shows here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from concept_loom.personalization.batch import Batch
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.learner import learn
from concept_loom.personalization.recipe import Recipe, recipe_for
from concept_loom.personalization.training_pass import TrainingPass
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import tiny
from .test_learning import LAYERWISE, NESTED, QUICK, WORD, task

aten = torch.ops.aten
ASKING = {aten._local_scalar_dense, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2, aten.equal}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}

SHORT = {"steps": 3, "seconds": 0.0, "batch_size": 3}
FAST = replace(recipe_for("staged fast", "SD 1.5", "subject"), **SHORT)
RECIPES = {
    "quick": replace(QUICK, **SHORT),
    "textual inversion": replace(WORD, **SHORT),
    "layerwise": replace(LAYERWISE, **SHORT),
    "nested": replace(NESTED, **SHORT),
    "staged fast": FAST,
    "attractor": replace(QUICK, **SHORT, attractor=True),
    "attractor, masks": replace(QUICK, **SHORT, attractor=True, mask_split=True),
}


class Waited(AssertionError):
    """Of an operation that needs the content of a tensor."""


class NoWaiting(TorchDispatchMode):
    """Raises on .item(), bool(), nonzero and what indexes by a mask."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in ASKING or (func.overloadpacket in INDEXING and _has_mask(args[1])):
            raise Waited(str(func))
        return func(*args, **(kwargs or {}))


def _has_mask(indices: Iterable[Tensor | None]) -> bool:
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices)


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_no_step_waits_for_the_device(recipe: Recipe, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward, taken = TrainingPass.backward, []

    def watched(self: TrainingPass, batch: Batch, step: int, generator: Generator) -> Tensor:
        self.prompts.contexts(batch.texts)  # what is frozen is encoded once in a learning
        with NoWaiting():
            taken.append(backward(self, batch, step, generator))
        return taken[-1]

    monkeypatch.setattr(TrainingPass, "backward", watched)
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        begun = task(session, recipe)
        # The host's schedule answers number by number, and asks its own tables.
        monkeypatch.setattr(session.denoiser, "sigma_at", lambda percent: 14.0 * (0.03 / 14.0) ** percent)
        learn(begun)
    assert len(taken) == recipe.steps


@pytest.mark.parametrize(
    "asking", [lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: x[x > 0], lambda x: x.nonzero()]
)
def test_what_waits_is_noticed(asking: Any) -> None:
    with NoWaiting(), pytest.raises(Waited):
        asking(torch.ones(3))
