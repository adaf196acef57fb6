"""ComfyUI's MODEL as the denoiser that training sees: the same wrapper and patch as in sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import cast

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP, copy_nested_dicts
from torch import Tensor

from ..composition import Composition
from ..denoiser import Context, Observer
from ..indices import moved
from ..regions import WHOLE
from .concept_clip import KEY
from .family import base_of
from .hearing import Heard
from .host_types import Options, Sampling
from .patch import Loom, ours_last, plan_call
from .small_attention import small_attention, with_gradients


class Backbone:
    """A `Denoiser` over a loaded ModelPatcher; refuses families that concepts do not act in."""

    def __init__(self, patcher: comfy.model_patcher.ModelPatcher, name: str = "") -> None:
        self.patcher, self.base = patcher, base_of(patcher, name)
        self.device: torch.device = patcher.load_device
        self._model, self._sampling = patcher.model, cast(Sampling, patcher.get_model_object("model_sampling"))
        # Asked number by number: on the device each of them would wait for it.
        self._schedule = cast(Sampling, deepcopy(cast(torch.nn.Module, self._sampling)).to("cpu"))
        self._options = _options(patcher)
        self._loom = Loom(self.base)

    @property
    def network(self) -> torch.nn.Module:
        return self._model.diffusion_model

    def sigma_at(self, percent: Tensor) -> Tensor:
        """Percent of sampling -> sigma; the ends, where the host answers with infinity and 0, are drawn in a little."""
        sigmas = [float(self._schedule.percent_to_sigma(one)) for one in percent.clamp(1e-3, 1 - 1e-3).tolist()]
        return torch.tensor(sigmas, device=percent.device)

    def add_noise(self, x0: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        return self._sampling.noise_scaling(sigma.view(-1, 1, 1, 1), noise.clone(), x0)

    def predict(
        self,
        noised: Tensor,
        sigma: Tensor,
        contexts: Sequence[Context],
        composition: Composition = (),
        observer: Observer | None = None,
    ) -> Tensor:
        context = moved(joined(contexts), self.device)
        heard, cache = _heard(contexts), self._loom.cache
        loom = Loom(self.base, composition, heard=heard, observer=observer, cache=cache, beside=True)
        samples = len(contexts)
        options = {
            **self._options,
            KEY: loom,
            "cond_or_uncond": [0] * samples,
            "uuids": list(range(samples)),
            "sigmas": sigma,
        }
        conds = self._extra(noised, contexts)
        return self._model.apply_model(noised, sigma, c_crossattn=context, transformer_options=options, **conds)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """1 / c^2, c what the model's output is multiplied with in x0: sigma (eps), sigma / sqrt(sigma^2 + 1) (v), ...

        So the error of x0, weighted, is the error of what the model predicts.
        """
        sigma = sigma.clamp(min=1e-3)
        nothing = torch.zeros(len(sigma), 1, 1, 1, device=sigma.device)
        with_one, without = (self._sampling.calculate_denoised(sigma, out, nothing) for out in (nothing + 1, nothing))
        return (with_one - without).flatten() ** -2

    def _extra(self, noised: Tensor, contexts: Sequence[Context]) -> dict[str, Tensor]:
        """What the host's model takes besides text (SDXL: pooled text and size)."""
        pooled = [context.pooled for context in contexts if context.pooled is not None]
        conds = self._model.extra_conds(
            noise=noised,
            latent_image=noised,  # for its shape: inpainting models then draw all of the picture, as without a mask
            device=self.device,
            width=noised.shape[3] * 8,
            height=noised.shape[2] * 8,
            prompt_type="positive",
            **({} if len(pooled) < len(contexts) else {"pooled_output": torch.cat(pooled)}),
        )
        size = noised.shape[0]
        return {key: one.process_cond(batch_size=size, area=None).cond.to(self.device) for key, one in conds.items()}


def joined(contexts: Sequence[Context]) -> Tensor:
    """Contexts of unequal lengths in one batch, repeated to a common length as the host does: (b, tokens, d)."""
    tokens = math.lcm(*(context.tensor.shape[1] for context in contexts))
    return torch.cat([context.tensor.repeat(1, tokens // context.tensor.shape[1], 1) for context in contexts])


def _heard(contexts: Sequence[Context]) -> Mapping[tuple[int, object], Heard]:
    return {(0, i): Heard((context.slots,), context.tensor.shape[1], WHOLE) for i, context in enumerate(contexts)}


def _options(patcher: comfy.model_patcher.ModelPatcher) -> Options:
    """The model's own patches and wrappers, and ours once; not a composition that may be on it already."""
    options = copy_nested_dicts(patcher.model_options["transformer_options"])
    wrappers = copy_nested_dicts(patcher.wrappers)
    wrappers.setdefault(WrappersMP.APPLY_MODEL, {})[KEY] = [plan_call]
    options["optimized_attention_override"] = small_attention if patcher.load_device.type == "cpu" else with_gradients
    return {**ours_last(options), "wrappers": wrappers}
