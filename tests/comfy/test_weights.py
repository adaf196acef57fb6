"""Frozen weights in main memory: fetched when their layer runs, and learning goes as if they were on the device.

There is one memory here, so what a GPU's host does is made of its own pieces: its partial loading, and its buffers.
"""

from contextlib import nullcontext

import comfy.memory_management
import comfy.ops
import pytest
import torch
from concept_loom.personalization.comfyui import session
from concept_loom.personalization.comfyui.session import training_session

from .test_session import given, gradients, live, loss_of


def waiting(patcher):
    """Layers whose weights the host fetches at every call."""
    return sum(hasattr(module, "prev_comfy_cast_weights") for module in patcher.model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_gradients_are_the_same_wherever_the_weights_are(dtype):
    def learned(size):
        model, clip = given("SDXL", dtype=dtype, manual=torch.float32)
        with training_session(model, clip) as opened:
            opened.weights.wait(size)
            names, composition = live("SDXL")
            loss = loss_of(opened, composition)
            loss.backward()
            return loss.item(), {name: one.grad for name, one in names.items()}, waiting(opened.denoiser.patcher)

    loss, here, none = learned(0)
    again, there, most = learned(10**9)
    assert none < most and loss == again
    for name, gradient in here.items():
        assert gradient.norm() > 0 and torch.equal(gradient, there[name]), name


def test_text_encoders_go_first_and_what_has_room_comes_back():
    model, clip = given("SD 1.5")
    with training_session(model, clip) as opened:
        weights, text, unet = opened.weights, opened.encoder.patcher, opened.denoiser.patcher
        assert weights.loaded == text.model_size() + unet.model_size()
        weights.wait(text.model_size() // 2)
        assert text.loaded_size() < text.model_size() and unet.loaded_size() == unet.model_size()
        weights.wait(text.model_size() + unet.model_size() // 2)
        assert unet.loaded_size() <= unet.model_size() / 2 and waiting(unet)
        there = weights.loaded
        weights.wait(text.model_size())
        assert weights.loaded > there


def test_nothing_waits_where_there_is_one_memory():
    model, clip = given("SD 1.5")
    with training_session(model, clip) as opened:
        assert opened.weights.movable == 0 < opened.weights.size


class Buffer:
    """The host's cast into one place that every layer uses again, as its streams do beside a GPU."""

    def __init__(self):
        self.cast, self.place = comfy.ops.cast_bias_weight, torch.empty(2**28, dtype=torch.uint8)

    def __call__(self, layer, *args, offloadable=False, **kwargs):
        weight, bias = self.cast(layer, *args, **kwargs)
        every = [weight, bias]
        views = comfy.memory_management.interpret_gathered_like(every, self.place)
        for view, one in zip(views, every, strict=True):
            if one is not None:
                view.detach().copy_(one)
        return (*views, (None, None, None)) if offloadable else tuple(views)


def test_what_lies_in_the_hosts_buffers_does_not_wait_for_the_backward_pass(monkeypatch):
    """Later layers write there: kept, it would be another layer's weight, and autograd refuses it at best."""
    model, clip = given("SD 1.5", dtype=torch.float16, manual=torch.float32)
    loss, known = gradients(model, clip, "SD 1.5")
    monkeypatch.setattr(comfy.ops, "cast_bias_weight", Buffer())
    again, found = gradients(model, clip, "SD 1.5")
    assert loss == again
    for name, gradient in known.items():
        assert torch.equal(gradient, found[name]), name
    monkeypatch.setattr(session, "cast_again", lambda *args: nullcontext())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model, clip, "SD 1.5")
