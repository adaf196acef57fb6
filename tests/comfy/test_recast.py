"""Weights of another dtype are cast again for the backward pass, and no copy of them waits for it."""

from contextlib import nullcontext
from types import SimpleNamespace

import comfy.memory_management
import comfy.ops
import pytest
import torch
from concept_loom.personalization.comfyui import recast, session
from concept_loom.personalization.comfyui.recast import is_cast_again
from torch.multiprocessing.reductions import StorageWeakRef

from . import tiny
from .other_packs import lora
from .test_session import given, gradients, live, loss_of

DTYPES = [torch.float16, torch.bfloat16, torch.float8_e4m3fn]


class Spy:
    """The host's cast, and a weak reference to every copy that it made."""

    def __init__(self):
        self.cast, self.copies = comfy.ops.cast_bias_weight, []

    def __call__(self, layer, *args, **kwargs):
        made = self.cast(layer, *args, **kwargs)
        if made[0] is not layer.weight:
            self.copies.append(StorageWeakRef(made[0].untyped_storage()))
        return made

    def alive(self):
        return sum(not one.expired() for one in self.copies)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_are_those_of_copies_that_were_kept(dtype, checkpoint, monkeypatch):
    model, clip = given("SD 1.5", dtype=dtype, manual=torch.float32)
    loss, again = gradients(model, clip, "SD 1.5", checkpoint=checkpoint)
    monkeypatch.setattr(session, "cast_again", lambda *args: nullcontext())
    kept_loss, kept = gradients(model, clip, "SD 1.5", checkpoint=checkpoint)
    assert loss == kept_loss
    for name, gradient in kept.items():
        assert gradient.norm() > 0 and torch.equal(again[name], gradient), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_copy_waits_for_the_backward_pass(dtype, monkeypatch):
    alive = []
    for known in (True, False):
        if not known:
            monkeypatch.setattr(session, "cast_again", lambda *args: nullcontext())
        spy = Spy()
        monkeypatch.setattr(comfy.ops, "cast_bias_weight", spy)
        model, clip = given("SD 1.5", dtype=dtype, manual=torch.float32)
        with session.training_session(model, clip) as opened:
            _, composition = live("SD 1.5")
            loss = loss_of(opened, composition)
            alive.append(spy.alive())
            loss.backward()
    assert alive[0] == 0 < 50 < alive[1]


class Buffers:
    """The host's cast where two streams fetch weights ahead, each into a buffer of its own (comfy.ops, 0.30.0)."""

    def __init__(self):
        self.cast, self.turn = comfy.ops.cast_bias_weight, 0
        self.bytes = [torch.empty(1 << 28, dtype=torch.int8) for _ in range(2)]

    def __call__(self, layer, *args, **kwargs):
        made = self.cast(layer, *args, **kwargs)
        self.turn = 1 - self.turn
        held = [one for one in made[:2] if one is not None]
        places = comfy.memory_management.interpret_gathered_like(held, self.bytes[self.turn])
        for place, one in zip(places, held, strict=True):
            place.copy_(one.detach())
        return (*places, *([None] * (2 - len(places))), *made[2:])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_the_host_fetches_into_a_buffer_is_right_in_the_backward_pass(checkpoint, monkeypatch):
    model, clip = given("SD 1.5")
    wanted_loss, wanted = gradients(model, clip, "SD 1.5")
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.__dict__["comfy_cast_weights"] = True
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", Buffers())
    waiting = SimpleNamespace(model=model.model, load_device="another", offload_device="cpu")
    monkeypatch.setattr(session, "cast_again", lambda patchers, dtype: recast.cast_again((waiting,), dtype))
    loss, fetched = gradients(model, clip, "SD 1.5", checkpoint=checkpoint)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(fetched[name], gradient, rtol=1e-3, atol=1e-5)


def test_patched_weights_are_patched_again():
    """A LoRA on the model: merged where the weights are loaded, or added at every cast."""
    model, clip = given("SD 1.5", dtype=torch.float16, manual=torch.float32)
    _, plain = gradients(model, clip, "SD 1.5")
    _, patched = gradients(lora(model), clip, "SD 1.5")
    assert any(not torch.equal(plain[name], patched[name]) for name in plain)


def test_the_host_has_its_own_cast_back_and_nothing_happens_without_casts():
    before = comfy.ops.cast_bias_weight
    model, clip = given("SD 1.5", dtype=torch.float16, manual=torch.float32)
    with session.training_session(model, clip):
        assert comfy.ops.cast_bias_weight is not before
    assert comfy.ops.cast_bias_weight is before and not recast._casts
    with session.training_session(tiny.model(), tiny.clip()):
        assert comfy.ops.cast_bias_weight is before
    assert not is_cast_again(torch.ones(2))
