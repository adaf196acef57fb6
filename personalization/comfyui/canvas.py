"""What is on the canvas: the MODEL, CLIP and VAE that a concept is learned with; they must belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import comfy.model_management as host
import comfy.model_patcher
import comfy.sd
import numpy as np
import torch
from latent_preview import Latent2RGBPreviewer
from torch import Tensor
from torch.nn import functional as F

from ..concept import Base
from ..dataset import ConceptDataset
from ..latents import TrainingLatents, training_latents
from ..recipe import Recipe
from .encoders import encoders_of
from .family import base_of, packed_as, prediction_of
from .fingerprint import fingerprint_of

SIDES = {"Playground": 64, "SD 1.5": 512, "SD 2": 768, "SDXL": 1024}  # pixels that each family was trained at


class Canvas(NamedTuple):
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE

    @property
    def name(self) -> str:
        return checkpoint_name(self.model)

    @property
    def fingerprints(self) -> list[str]:
        parts = [fingerprint_of(self.clip.patcher, ""), fingerprint_of(self.vae.patcher, "")]
        return [
            fingerprint_of(self.model),
            *parts,
            str(self.clip.layer_idx),
            *self.patches,
        ]

    @property
    def patches(self) -> list[str]:
        """What other nodes have put on the model, weights apart, that changes what it draws; mostly nothing."""
        return [*_other_sampling(self.model), *_others(self.model)]

    def base(self) -> Base:
        """ValueError where the three do not belong together, or have weights that gradients do not pass."""
        base = base_of(self.model, self.name)
        _refuse_packed_weights(self.model)
        refuse_other_clip(self.clip, base)
        _refuse_other_vae(self.vae, self.model)
        return base

    def encode(self, pixels: Tensor) -> Tensor:
        """(n, h, w, 3) in 0..1 -> latents as the denoiser sees them."""
        host.throw_exception_if_processing_interrupted()
        return self.model.model.process_latent_in(self.vae.encode(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as the denoiser sees them -> (n, h, w, 3) in 0..1, on the CPU."""
        return self.vae.decode(self.model.model.process_latent_out(latents)).cpu()

    def glimpse(self, latents: Tensor) -> Tensor:
        """As `decode`, without the VAE: the host's own rough preview, a colour for each place of the latents."""
        kind = self.model.model.latent_format
        previewer = Latent2RGBPreviewer(kind.latent_rgb_factors, kind.latent_rgb_factors_bias)
        small = torch.from_numpy(np.array(previewer.decode_latent_to_preview(latents))).float() / 255
        return F.interpolate(small.movedim(-1, 0)[None], scale_factor=8, mode="bilinear").movedim(1, -1)

    def has_room_to_decode(self, shape: torch.Size) -> bool:
        """Whether the VAE can be loaded without pushing out the model that is being trained."""
        device = self.vae.patcher.load_device
        if host.is_device_cpu(device):
            return True
        if host.DISABLE_SMART_MEMORY:  # the host pushes everything out for whatever it loads
            return False
        needed = self.vae.patcher.model_size() + self.vae.memory_used_decode(shape, self.vae.vae_dtype)
        free = host.get_free_memory(device)
        return free > 1.2 * needed + host.minimum_inference_memory()  # pyright: ignore[reportOperatorIssue]


def checkpoint_name(model: comfy.model_patcher.ModelPatcher) -> str:
    """The name of the checkpoint's file or diffusers folder, where a core loader has noted it."""
    noted = model.cached_patcher_init
    first = noted[1][0] if noted and noted[1] else ""
    if not isinstance(first, str) or not Path(first).suffix:
        return ""
    path = Path(first)
    return path.parent.parent.name if path.name.startswith("diffusion_pytorch_model") else path.name


def _other_sampling(model: comfy.model_patcher.ModelPatcher) -> list[str]:
    """What a node such as ModelSamplingDiscrete has put in the place of the checkpoint's own; most models have none."""
    other = model.object_patches.get("model_sampling")
    if other is None:
        return []
    sigmas = [float(other.percent_to_sigma(percent)) for percent in (0.01, 0.25, 0.5, 0.75, 0.99)]
    return [prediction_of(model), *(kind.__name__ for kind in type(other).__mro__), *map(str, sigmas)]


def _others(model: comfy.model_patcher.ModelPatcher) -> list[str]:
    """What other packs have put on the model that learning runs through, such as FreeU, with their plain settings."""
    options = model.model_options["transformer_options"]
    found = [(kind, one) for kind, patches in options.get("patches", {}).items() for one in patches]
    for kind, replaced in options.get("patches_replace", {}).items():
        found += [(f"{kind} {where}", one) for where, one in replaced.items()]
    for kind, keyed in model.wrappers.items():
        found += [(f"{kind} {key}", one) for key, wrappers in keyed.items() for one in wrappers]
    ours = __name__.rpartition(".")[0]
    return [f"{kind}: {_named(one)}" for kind, one in found if not _module(one).startswith(ours)]


def _named(one: object) -> str:
    name, settings = getattr(one, "__qualname__", type(one).__qualname__), []
    for cell in getattr(one, "__closure__", None) or ():
        with suppress(ValueError, TypeError):  # an empty cell; what is no plain value, and would have an address
            settings.append(json.dumps(cell.cell_contents, sort_keys=True))
    return f"{_module(one)}.{name} {settings}"


def _module(one: object) -> str:
    return getattr(one, "__module__", "") or ""


def side_for(base: Base) -> int:
    """Pixels of the square that this base was trained at."""
    return 512 if base.family == "SD 2" and base.prediction == "eps" else SIDES[base.family]


@torch.no_grad()
def latents_of(canvas: Canvas, dataset: ConceptDataset, base: Base) -> TrainingLatents:
    return training_latents(dataset, side_for(base), canvas.encode)


def learning_key(canvas: Canvas, dataset: ConceptDataset, recipe: Recipe, words: tuple[str, str], seed: int) -> str:
    """SHA-256 of all that decides the tensors and how they are used; `words` are class word and role."""
    decisive = [dataset.hash, canvas.fingerprints, recipe.decisive(), words, seed]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def refuse_other_clip(clip: comfy.sd.CLIP, base: Base) -> None:
    """ValueError for a CLIP of another family than `base`, or with other encoders than concepts know."""
    widths = {key: encoder.width for key, encoder in encoders_of(clip).items()}
    if widths != dict(base.encoders):
        raise ValueError(
            f"The CLIP has the text encoders {_listed(widths)}; the {base.family} model needs "
            f"{_listed(base.encoders)}. Connect the CLIP of the model's own checkpoint."
        )


def _refuse_packed_weights(model: comfy.model_patcher.ModelPatcher) -> None:
    if packed := packed_as(model):
        raise ValueError(
            f"This MODEL's weights are packed as {packed}, as those of GGUF files are; this node needs weights of a "
            "floating-point type. Load the model as a checkpoint in fp16, bf16 or fp8."
        )


def _refuse_other_vae(vae: comfy.sd.VAE, model: comfy.model_patcher.ModelPatcher) -> None:
    made, needed = vae.latent_channels, model.model.latent_format.latent_channels
    if made != needed:
        raise ValueError(
            f"The VAE makes latents of {made} channels; the model needs {needed}. "
            "Connect the VAE of the model's own checkpoint."
        )


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{key} ({width})" for key, width in widths.items())
