"""Gradient checkpointing that knows where it is: the host changes `transformer_options` while the model runs.

At recompute the dictionary would name the last block, and a patch keyed on it would act at the wrong site without any
error. So every block sees a snapshot of what was there when it first ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .host_types import Options

CHANGING = ("block", "block_index", "transformer_index", "activations_shape")


def blocks_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """What checkpointing recomputes."""
    return [module for module in network.modules() if isinstance(module, BasicTransformerBlock | ResBlock)]


@contextmanager
def checkpointed(network: torch.nn.Module) -> Iterator[None]:
    """Within, transformer and residual blocks keep only their inputs for the backward pass.

    What stood in a block's forward before (low-rank layers do) stands there again afterwards.
    """
    blocks = blocks_of(network)
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            transformer = isinstance(block, BasicTransformerBlock)
            block.forward = _with_snapshot(block.forward) if transformer else _plain(block.forward)
        yield
    finally:
        for block, stand_in in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if stand_in is not None:
                block.forward = stand_in


def _with_snapshot(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, context: Tensor | None = None, transformer_options: Options | None = None) -> Tensor:
        options = transformer_options or {}
        then = {key: options[key] for key in CHANGING if key in options}

        def block(x: Tensor, context: Tensor | None) -> Tensor:
            return forward(x, context=context, transformer_options={**options, **then})

        return checkpoint(block, x, context, use_reentrant=False, preserve_rng_state=False)

    return run


def _plain(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*args: Any, **kwargs: Any) -> Tensor:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run
