"""A finetuned playground: other weights than a concept was learned on, as a designer's own checkpoint has.

A random low rank merged into every attention and feed-forward weight W (out, in) of the transformer blocks:

    W' = W + s |W| BA / |BA|        A (r, in), B (out, r) normal, Frobenius norms; r = 8, s = 0.1

It says what another base costs a concept, not what a finetune for a look does to it.
"""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from torch import Generator, Tensor

RANK, SIZE, SEED = 8, 0.1, 29


def finetuned(model: ModelPatcher) -> ModelPatcher:
    """A clone with the change among its patches; `model` stays as it is."""
    generator, other = Generator().manual_seed(SEED), model.clone()
    weights = {key: weight for key, weight in model.model.state_dict().items() if _changes(key, weight)}
    changes = {key: ("diff", (_change(weight.float().cpu(), generator),)) for key, weight in weights.items()}
    if len(other.add_patches(changes)) < len(changes):
        raise ValueError("The model did not take every change of its weights. Give the playground's own MODEL.")
    return other


def _changes(key: str, weight: Tensor) -> bool:
    return ".transformer_blocks." in key and weight.ndim == 2


def _change(weight: Tensor, generator: Generator) -> Tensor:
    out, width = weight.shape
    product = torch.randn(out, RANK, generator=generator) @ torch.randn(RANK, width, generator=generator)
    return SIZE * weight.norm() * product / product.norm()
