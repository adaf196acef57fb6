"""The memory that learning will need, against what autograd really keeps on ComfyUI's own classes."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import islice

import pytest
import torch
from concept_loom.personalization.comfyui.gradient_checkpoint import checkpointed
from concept_loom.personalization.comfyui.memory import Offload, Room, Way, _halved, enough_memory, room_for
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.footprint import Footprint
from concept_loom.personalization.learner import rehearsals
from torch.autograd.graph import saved_tensors_hooks

from . import tiny
from .test_learning import LAYERWISE, NESTED, QUICK, STAGED, WORD, task

GB = 10**9
RECIPES = [QUICK, LAYERWISE, NESTED, WORD, STAGED]
# At least; 0.43 (nested) to 0.92: the largest block, which comes back in the backward pass, is the rest.
RECOMPUTED = 0.4


def really_kept(work, weights) -> int:
    """Bytes of all distinct storages that a forward keeps, while all of them are alive."""
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = work()
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    sizes = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
    assert alive is not None
    return sum(size for address, size in sizes.items() if address not in known)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.method)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_step_keeps_what_was_foretold(recipe, checkpoint) -> None:
    with training_session(tiny.model(), tiny.clip()) as session:
        one = task(session, replace(recipe, batch_size=1))
        step = room_for(one, session).step
        weights = [*session.denoiser.network.parameters(), *session.encoder.weights()]
        with checkpointed(session.denoiser.network) if checkpoint else nullcontext():
            kept = max(really_kept(work, weights) for work in rehearsals(one))
    assert kept <= (step.recomputed if checkpoint else step.plain)
    if checkpoint:
        assert kept >= RECOMPUTED * step.recomputed
    else:
        assert kept == pytest.approx(step.plain, rel=0.02)


def test_low_rank_layers_act_after_checkpointing_and_leave_nothing_behind() -> None:
    """The last picture is drawn after it, and a sparer way comes after it where memory has run out."""
    model, composition = tiny.model(), (PlacedConcept(tiny.low_rank(tiny.concept())),)
    with training_session(model, tiny.clip()) as (backbone, encoder):
        context, x, sigma = encoder.encode("a <mug>", composition), torch.ones(1, 4, 16, 16), torch.tensor([3.0])
        before = backbone.predict(x, sigma, [context], composition)
        with checkpointed(backbone.network):
            within = backbone.predict(x, sigma, [context], composition)
        after = backbone.predict(x, sigma, [context], composition)
        assert torch.equal(before, within) and torch.equal(before, after)
        assert not torch.equal(before, backbone.predict(x, sigma, [encoder.encode("a mug")]))
        network = backbone.network
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in network.modules())


def test_no_pictures_per_step_are_halved_to_nothing() -> None:
    assert [list(islice(_halved(size), 9)) for size in (5, 1, 0, -2)] == [[5, 2, 1], [1], [], []]


def room(free: float, movable: float = 0.0) -> Room:
    return Room(2 * GB, 0, 0, int((2 + free) * GB), int(movable * GB), 0, Footprint(GB, GB // 5, 0), torch.bfloat16)


@pytest.mark.parametrize(
    ("free", "way"),
    [(4.0, Way(False, 4)), (3.9, Way(True, 4)), (0.5, Way(True, 2)), (0.2, Way(True, 1)), (0.1, Way(True, 1))],
)
def test_the_fastest_way_that_fits_is_taken(free, way) -> None:
    assert room(free).best(4) == way


@pytest.mark.parametrize(
    ("free", "way", "waiting"),
    [
        (0.8, Way(True, 4), 0.0),
        (0.5, Way(True, 4, Offload.NEEDED), 2.8 - 0.9 * 2.5),
        (-1.1, Way(True, 4, Offload.NEEDED), 2.8 - 0.9 * 0.9),
        (-1.3, Way(True, 2, Offload.ALL), 2.0),
    ],
)
def test_weights_make_way_before_pictures_do(free, way, waiting) -> None:
    taken = room(free, movable=2)
    assert taken.best(4) == way
    assert taken.waiting(way) == pytest.approx(waiting * GB)
    assert taken.needs(way) <= taken.total
    assert ("of weights wait in main memory" in taken.sentence(way, 4)) == (waiting > 0)


def test_what_is_spared_is_told() -> None:
    assert room(4.0).sentence(Way(False, 4), 4) == "Learning in bf16 needs 6.0 GB of 6.0 GB free."
    told = room(0.1).sentence(Way(True, 1), 4)
    assert "2.2 GB of 2.1 GB free" in told and "1 instead of 4 pictures" in told and "may fail" in told


def test_what_ran_out_is_told_in_figures_whether_it_was_foreseen_or_not() -> None:
    for free, told in ((0.1, "2.2 GB were foreseen and 2.1 GB"), (4.0, "2.2 GB were foreseen and 6.0 GB")):
        assert told in room(free).shortage(Way(True, 1))


@pytest.mark.parametrize("free", [0.5, 1.0, 2.0, 6.0])
def test_what_did_not_fit_is_not_tried_again_in_other_words(free: float) -> None:
    """Where a way was foreseen to fit and did not, the forecast was wrong by more than a little."""
    there = room(free, movable=2)
    for failed in there.ways(4)[:-1]:
        second = there.sparer(failed, 4)
        assert second and there.needs(second) < there.needs(failed)
        least = 0.2 * there.step.of(failed.batch_size, failed.checkpoint)
        assert second == there.ways(4)[-1] or there.needs(failed) - there.needs(second) >= least
    assert there.sparer(Way(True, 4), 4) == Way(True, 4, Offload.ALL if free >= 1 else Offload.NEEDED)
    assert there.sparer(there.ways(4)[-1], 4) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400000000000000 bytes."),
    ],
)
def test_memory_that_runs_out_is_known_on_every_device(error: Exception) -> None:
    with pytest.raises(MemoryError, match="too little memory"), enough_memory(2, "Learn Concept"):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(2, "Learn Concept"):
        raise RuntimeError("shapes do not match")


def test_every_step_down_is_sparer_until_there_is_none() -> None:
    plain, everything = room(0.5), room(0.5, movable=2)
    assert plain.ways(6) == [Way(False, 6), Way(True, 6), Way(True, 3), Way(True, 1)]
    offloaded = [Way(True, 6, Offload.NEEDED), *(Way(True, size, Offload.ALL) for size in (6, 3, 1))]
    assert everything.ways(6) == [Way(False, 6), Way(True, 6), *offloaded]
    for one in (plain, everything):
        needs = [one.needs(way) for way in one.ways(6)]
        assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs)
