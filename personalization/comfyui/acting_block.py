"""Low-rank layers beside the host's weights: who acts is read from the call's own options.

Nothing is kept between calls: without a plan, and for models that nothing is composed on, a stand-in does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from ..low_rank_block import LowRankBlock
from ..parts.low_rank import LowRank
from ..sites import Site
from .concept_clip import KEY
from .family import sites_of
from .host_types import Options


class ActingBlock(LowRankBlock):
    """Stands inside gradient checkpointing."""

    def __init__(self, site: Site, block: BasicTransformerBlock) -> None:
        linear = {name: one for name, one in block.named_modules() if isinstance(one, torch.nn.Linear)}
        super().__init__(site, block, linear)

    @partial(torch.compiler.disable, recursive=False)  # who acts is in the call's options, which compilers do not guard
    def __call__(self, x: Tensor, context: Tensor | None = None, transformer_options: Options | None = None) -> Tensor:
        options = transformer_options or {}
        loom: Any = options.get(KEY)
        present = loom.plan.low_rank if loom and loom.plan else ()
        if not present:
            return self.plain(x, context=context, transformer_options=options)
        self.cache = loom.cache
        here = [one.placed for one in present if one.placed.concept.has(LowRank, site=self.site)]
        if loom.run is not None:
            for placed in here:
                loom.run.note("acted", placed.word, self.site)
        height, width = options["activations_shape"][-2:]
        return self.run(present, (height, width), x, context=context, transformer_options=options)


def inject(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Put the stand-ins in; those that are there stay."""
    for shape, block in sites_of(patcher.model.diffusion_model):
        if not isinstance(block.__dict__.get("forward"), ActingBlock):
            ActingBlock(shape.site, block)


def eject(patcher: comfy.model_patcher.ModelPatcher) -> None:
    for _, block in sites_of(patcher.model.diffusion_model):
        if isinstance(acting := block.__dict__.get("forward"), ActingBlock):
            acting.remove()


@contextmanager
def injected(patcher: comfy.model_patcher.ModelPatcher) -> Iterator[None]:
    """For the time of a training session; gradient checkpointing comes after, around it."""
    inject(patcher)
    try:
        yield
    finally:
        eject(patcher)
