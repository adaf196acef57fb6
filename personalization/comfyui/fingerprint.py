"""Which weights a concept was learned on: a hash that is fast on the largest models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import comfy.model_patcher
import torch

from .merged_layer import MergedLayer


def fingerprint_of(model: comfy.model_patcher.ModelPatcher, part: str = "diffusion_model") -> str:
    """A hash of the part's weights and LoRA-style patches, not those of concepts, from a few values of each: seconds
    for SDXL.

    `part` is the denoiser, or "" for all that a CLIP's or VAE's patcher holds.
    """
    digest = hashlib.blake2b(digest_size=16)
    backup = model.backup
    for name, weight in sorted(model.model.get_submodule(part).state_dict().items()):
        key = f"{part}.{name}" if part else name
        _sample(digest, name, backup[key].weight if key in backup else weight)
    for key, every in sorted(model.patches.items()):
        patches = [one for one in every if not isinstance(one[1], MergedLayer)]
        if not patches:
            continue
        digest.update(key.encode())
        for strength, patch, strength_model, *_ in patches:
            digest.update(f"{strength}{strength_model}".encode())
            for tensor in _tensors(patch):
                _sample(digest, "", tensor)
    return digest.hexdigest()


def _sample(digest: hashlib.blake2b, name: str, tensor: torch.Tensor) -> None:
    flat = tensor.detach().reshape(-1)
    values = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.float32)
    digest.update(f"{name}{tuple(tensor.shape)}".encode() + values.numpy().tobytes())


def _tensors(patch: object) -> Iterator[torch.Tensor]:
    """The tensors inside a weight patch, which the host keeps as tuples, lists and adapters."""
    if isinstance(patch, torch.Tensor):
        yield patch
    elif isinstance(patch, list | tuple):
        for one in patch:
            yield from _tensors(one)
    elif isinstance(weights := getattr(patch, "weights", None), list | tuple):
        yield from _tensors(weights)
