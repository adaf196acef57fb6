"""The peer: ComfyUI's own Train LoRA node, in the same process and with the same seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_train import TrainLoraNode
from torch import Tensor

from ..personalization.comfyui.family import base_of
from ..playground.world import Setting
from .kept import Took, key_of
from .wind_tunnel import Case, Sampled, Tunnel, cases

RARE = "sks"  # DreamBooth's rare token before the class word
RATES, STRENGTHS = (1e-3, 3e-3, 1e-2), (0.7, 1.0)
TUNING = 2  # instances of another world, on which the peer is tuned
DEFAULTS: dict[str, Any] = {  # the node's own
    "batch_size": 1,
    "steps": 16,
    "grad_accumulation_steps": 1,
    "learning_rate": 5e-4,
    "rank": 8,
    "optimizer": "AdamW",
    "loss_function": "MSE",
    "seed": 0,
    "training_dtype": "bf16",
    "lora_dtype": "bf16",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": True,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}
BATCH = 16
TUNED = {
    **DEFAULTS,
    "batch_size": BATCH,
    "training_dtype": "fp32",
    "lora_dtype": "fp32",
    "gradient_checkpointing": False,
}


@dataclass(frozen=True)
class Lora:
    """Core Train LoRA as its node trains it: rank 8, fp32, no checkpointing, the same seconds as ours."""

    rate: float
    strength: float
    seconds: float
    captioned: bool = False  # each picture under its own prompt
    batch: int = BATCH

    def train(self, tunnel: Tunnel, case: Case) -> Trained:
        noun = f"{RARE} {case.class_word}"
        prompts = case.captions(noun) if self.captioned else [f"a photo of {noun}"]
        return self.trained(tunnel, Lesson(case.training, tuple(prompts), case.seed))

    def trained(self, tunnel: Tunnel, lesson: Lesson) -> Trained:
        """As many steps as fit in the seconds, which two short runs tell beforehand."""
        base = base_of(tunnel.playground.model).fingerprint
        batch = () if self.batch == BATCH else (self.batch,)
        key = key_of(base, "core LoRA", self.rate, self.seconds, *batch, lesson.prompts, lesson.seed, lesson.pictures)
        return Trained(*tunnel.kept.tensors(key, lambda: self._trained(tunnel, lesson)))

    def _trained(self, tunnel: Tunnel, lesson: Lesson) -> tuple[dict[str, Tensor], Took]:
        began = time.perf_counter()
        trained_lora(tunnel, lesson, self.rate, 3, self.batch)
        start_up = time.perf_counter() - began
        trained_lora(tunnel, lesson, self.rate, 9, self.batch)
        per_step = max((time.perf_counter() - began - 2 * start_up) / 6, 1e-3)
        steps = max(1, int(self.seconds / per_step))
        weights = trained_lora(tunnel, lesson, self.rate, steps, self.batch)
        return weights, Took(time.perf_counter() - began, steps)

    def on(self, model: ModelPatcher, weights: dict[str, Tensor]) -> ModelPatcher:
        return cast(ModelPatcher, comfy.sd.load_lora_for_models(model, None, dict(weights), self.strength, 0)[0])

    def sample(self, tunnel: Tunnel, case: Case, weights: dict[str, Tensor]) -> Sampled:
        return tunnel.sample(case, f"{RARE} {case.class_word}", self.on(tunnel.playground.model, weights))


class Trained(NamedTuple):
    weights: dict[str, Tensor]
    took: Took  # its two short runs included


class Lesson(NamedTuple):
    """Pictures (n, h, w, 3), uint8, and the prompt that the node trains them under, or one for each."""

    pictures: Tensor
    prompts: tuple[str, ...]
    seed: int


def train_lora(model: ModelPatcher, samples: Tensor, positive: list, options: dict[str, Any]) -> dict[str, Tensor]:
    """What the node gives for latents (n, c, h, w) and a conditioning, or one for each of them."""
    listed = {name: [value] for name, value in options.items()}
    return TrainLoraNode.execute(model=[model], latents=[{"samples": samples}], positive=positive, **listed).args[0]


@torch.inference_mode()  # as the host runs its nodes
def trained_lora(tunnel: Tunnel, lesson: Lesson, rate: float, steps: int, batch: int = BATCH) -> dict[str, Tensor]:
    """After so many steps of the node on the playground."""
    playground = tunnel.playground
    samples = playground.vae.encode(lesson.pictures.float() / 255)
    clip = playground.clip
    positive = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in lesson.prompts]
    own = {"batch_size": batch, "steps": steps, "learning_rate": rate, "seed": lesson.seed}
    return train_lora(playground.model, samples, positive, {**TUNED, **own})


def tuned(
    tunnel: Tunnel,
    world_seed: int,
    seconds: float,
    settings: Sequence[Setting],
    captioned: bool = False,
    batch: int = BATCH,
) -> Lora:
    """The peer at its best: the rate and strength with the highest identity plus attributes on other instances."""
    others = cases(TUNING, world_seed + 7919, settings)
    tried: dict[tuple[float, float], float] = {}
    for rate in RATES:
        for case in others:
            lora = Lora(rate, 1.0, seconds, captioned, batch)
            weights = lora.train(tunnel, case).weights
            for strength in STRENGTHS:
                scores = tunnel.score(case, replace(lora, strength=strength).sample(tunnel, case, weights))
                tried[rate, strength] = tried.get((rate, strength), 0.0) + scores.identity + scores.attributes
    rate, strength = max(tried, key=lambda pair: tried[pair])
    which = "core Train LoRA with captions" if captioned else "core Train LoRA"
    print(f"{which}, tuned on {TUNING} other instances: learning rate {rate:g}, strength {strength:g}")
    return Lora(rate, strength, seconds, captioned, batch)
