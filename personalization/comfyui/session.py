"""A training session on what is on the canvas: MODEL and CLIP made fit for autograd, and put back afterwards."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import NamedTuple

import comfy.model_management as host
import comfy.model_patcher
import comfy.sd
import torch
from comfy.clip_model import CLIPLayer
from torch import Tensor

from .acting_block import injected
from .backbone import Backbone
from .gradient_checkpoint import checkpointed
from .low_rank import unmerge
from .prompt_encoder import ClipPromptEncoder
from .recast import cast_again
from .weights import Weights


class Session(NamedTuple):
    denoiser: Backbone
    encoder: ClipPromptEncoder

    @property
    def weights(self) -> Weights:
        return Weights((self.encoder.patcher, self.denoiser.patcher))


@contextmanager
def training_session(
    model: comfy.model_patcher.ModelPatcher, clip: comfy.sd.CLIP, checkpoint: bool = False, name: str = ""
) -> Iterator[Session]:
    """Yields a denoiser and a prompt encoder that gradients flow through; no base weight changes or takes gradients.

    `checkpoint` recomputes blocks in the backward pass: less memory, more time, the same gradients.
    """
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        model, clip = _trainable_model(model), _trainable_clip(clip)
        stack.enter_context(_in_training(model.load_device))
        weights = Weights((clip.patcher, model))
        weights.load()
        weights.unpin()
        for network in (model.model, clip.cond_stage_model):
            without_inference_tensors(network)
            network.requires_grad_(False)
        stack.enter_context(_out_of_place(clip.cond_stage_model))
        stack.enter_context(cast_again(weights.patchers, model.model.get_dtype_inference()))
        stack.enter_context(injected(model))
        if checkpoint:
            stack.enter_context(checkpointed(model.model.diffusion_model))
        yield Session(Backbone(model, name), ClipPromptEncoder(clip))


def without_inference_tensors(network: torch.nn.Module) -> None:
    """Nodes run in inference mode, and autograd refuses weights that were made there: swap them for equal ones."""
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_inference():
                module._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_inference():
                module._buffers[name] = buffer.clone()


def _trainable_model(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """A clone over the canvas's own weights. Paged ones cannot be trained on: the host loads those once more."""
    if not model.is_dynamic():
        return _fit_to_compute(without_concepts(model.clone()))
    _check_loadable(model, "MODEL")
    # ComfyUI 0.18 knows no deep clone: there the weights are the canvas's own, as above.
    deep = {"force_deepcopy": True} if "force_deepcopy" in signature(model.clone).parameters else {}
    return _fit_to_compute(without_concepts(model.clone(disable_dynamic=True, **deep)))


def without_concepts(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """Learning is on the model alone, whatever is composed on it."""
    unmerge(model)
    return model


def _fit_to_compute(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """fp16 activations lose small gradients: compute in bf16 where the device has it, else in fp32."""
    if model.model.get_dtype_inference() == torch.float16:
        fast = host.should_use_bf16(model.load_device)
        model.set_model_compute_dtype(torch.bfloat16 if fast else torch.float32)
    return model


def _trainable_clip(clip: comfy.sd.CLIP) -> comfy.sd.CLIP:
    if clip.patcher.is_dynamic():
        _check_loadable(clip.patcher, "CLIP")
    copy = clip.clone(disable_dynamic=clip.patcher.is_dynamic())
    copy.cond_stage_model = copy.patcher.model  # a clone that is no longer dynamic brings a model of its own
    return copy


def _check_loadable(patcher: comfy.model_patcher.ModelPatcher, socket: str) -> None:
    """Raises ValueError where paged weights do not say how they are loaded once more."""
    if patcher.cached_patcher_init is None:
        raise ValueError(
            f"This {socket} pages its weights (dynamic VRAM) and does not say how to load it again. Learning needs "
            "weights that stay in place. Load it with a core loader, or start ComfyUI with --disable-dynamic-vram."
        )


@contextmanager
def _in_training(device: torch.device) -> Iterator[None]:
    """The host's fused kernels have no backward pass; this flag makes it take the plain ones.

    And what its text encoders make stays on the device: fetched to main memory, every step would wait for it.
    """
    before = host.in_training, host.intermediate_device
    host.in_training, host.intermediate_device = True, lambda: device
    try:
        yield
    finally:
        host.in_training, host.intermediate_device = before


@contextmanager
def _out_of_place(network: torch.nn.Module) -> Iterator[None]:
    """The host's CLIP layers add in place, which breaks their backward pass."""
    layers = [module for module in network.modules() if isinstance(module, CLIPLayer)]
    try:
        for layer in layers:
            layer.forward = types.MethodType(_clip_layer, layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _clip_layer(layer: CLIPLayer, x: Tensor, mask: Tensor | None = None, optimized_attention: object = None) -> Tensor:
    x = x + layer.self_attn(layer.layer_norm1(x), mask, optimized_attention)
    return x + layer.mlp(layer.layer_norm2(x))
