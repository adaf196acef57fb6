"""The judges' training: surroundings, places and style from whole pictures, objects from crops."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor, nn

from ..judge import CROP_HEADS, NAMES, WHOLE_HEADS, crops, networks, pixels, save_judge, split_heads
from ..judge_networks import FEATURES, Crop, Seen, Whole
from ..model import AUTOENCODER, CHANNELS, read_weights
from .autoencoder import decode, moments
from .judge_pictures import FACTOR_NAMES, UNKNOWN, VIEWS, Scenes, Views, scenes, views
from .state import Run, report, warm_then_decay

PICTURES = 32_000  # of scenes, and of views
STEPS = 4000
STYLES, FAMILIES = 32, 20  # in a batch
TEMPERATURE = 0.1


def train(cache: Path, weights: Path, names: tuple[str, ...] = NAMES, steps: int = STEPS, workers: int = 1) -> None:
    """Half of what the judges see went through the VAE, if its weights are there."""
    seen, near = scenes(cache, PICTURES, workers), views(cache, PICTURES, workers)
    again = [round_trips(part.images, weights, cache) for part in (seen, near)]
    for name in names:
        seed = 31 + NAMES.index(name)
        torch.manual_seed(seed)
        whole, crop = networks(name)
        _train_whole(Trainee(f"judge-{name}-whole", cache, seed, steps), whole, seen, again[0])
        _train_crop(Trainee(f"judge-{name}-crop", cache, seed, steps), crop, near, again[1])
        save_judge(whole, crop, Path(weights) / f"judge-{name}.safetensors")


class Trainee:
    """What every stage of a judge's training needs: where its state lies, its seed and its length."""

    def __init__(self, label: str, cache: Path, seed: int, steps: int) -> None:
        self.label, self.path, self.steps = label, cache / f"{label}.pt", steps
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, module: nn.Module, peak: float, loss: Callable[[int], Tensor]) -> None:
        optimiser = torch.optim.AdamW(module.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.02)
        run = Run(self.path, module, optimiser, self.generator, decay=0.998)
        report(self.label, run.steps(self.steps, warm_then_decay(peak, self.steps, cooldown=0.6), loss))
        module.load_state_dict(run.weights())


def _train_whole(trainee: Trainee, whole: Whole, data: Scenes, again: Tensor) -> None:
    draw = trainee.generator

    def loss(step: int) -> Tensor:
        picked = _groups(len(data.images), VIEWS, STYLES, draw)
        x = disturbed(pixels(_either(data.images, again, picked, draw)), draw)
        with torch.autocast("cpu", torch.bfloat16):
            seen = whole(x)
        return scene_loss(seen, data.answers[picked], data.boxes[picked], data.styles[picked])

    trainee.learn(whole, 2e-3, loss)


def scene_loss(seen: Seen, answers: Tensor, boxes: Tensor, styles: Tensor) -> Tensor:
    parts = split_heads(seen.logits, WHOLE_HEADS)
    known = ~boxes.isnan()
    placed = F.l1_loss(seen.boxes[known], boxes[known])
    return answers_loss(parts, answers) + 10 * placed + 0.5 * contrast(seen.style, styles)


def answers_loss(parts: tuple[Tensor, ...], answers: Tensor) -> Tensor:
    """Cross entropy summed over the heads, each a mean over the pictures on which it can be told."""
    losses = [
        F.cross_entropy(part, right, reduction="sum", ignore_index=UNKNOWN) / (right != UNKNOWN).sum().clamp(min=1)
        for part, right in zip(parts, answers.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum()


def contrast(z: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out): equal labels attract, all others repel."""
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / TEMPERATURE).masked_fill(itself, -1e4)
    same = (labels[:, None] == labels) & ~itself
    return -(logits.log_softmax(1) * same).sum() / same.sum()


class Studying(nn.Module):
    """A crop's network with the heads that only its training has: names and numbers of an instance's factors."""

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.crop = crop
        self.names = nn.Linear(FEATURES, sum(map(len, FACTOR_NAMES.values())))
        self.numbers = nn.Linear(FEATURES, 12)
        self.scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-5.0))

    def loss(self, x: Tensor, near: Views) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            thing = self.crop(x)
            names, numbers = self.names(thing.features).float(), self.numbers(thing.features).float()
        told = answers_loss(split_heads(thing.logits, CROP_HEADS), near.answers)
        told = told + 0.3 * answers_loss(split_heads(names, FACTOR_NAMES), near.names)
        pairs = contrast(thing.identity, near.instances) + 2 * self.verification(thing.identity, near.instances)
        return pairs + told + 5 * F.mse_loss(numbers, near.numbers)

    def verification(self, z: Tensor, instances: Tensor) -> Tensor:
        """Logistic loss over pairs with one threshold for all; strangers and variations of a factor count alike."""
        logits = z @ z.T * self.scale.exp() + self.bias
        same, family = instances[:, None] == instances, instances[:, None] // 2 == instances // 2
        near = family & ~same
        right = F.softplus(-logits[same & ~torch.eye(len(z), dtype=torch.bool)]).mean()
        return right + 0.5 * (F.softplus(logits[near]).mean() + F.softplus(logits[~family]).mean())


def _train_crop(trainee: Trainee, crop: Crop, data: Views, again: Tensor) -> None:
    draw, study = trainee.generator, Studying(crop)

    def loss(step: int) -> Tensor:
        picked = _groups(len(data.images), 2 * VIEWS, FAMILIES, draw)
        near = Views(_either(data.images, again, picked, draw), *(part[picked] for part in data[1:]))
        return study.loss(disturbed(crops(pixels(near.images), jittered(near.boxes, draw)), draw), near)

    trainee.learn(study, 2e-3, loss)


def _groups(count: int, size: int, groups: int, draw: torch.Generator) -> Tensor:
    first = torch.randint(count // size, (groups,), generator=draw) * size
    return (first[:, None] + torch.arange(size)).flatten()


def _either(images: Tensor, again: Tensor, picked: Tensor, draw: torch.Generator) -> Tensor:
    through = torch.rand(len(picked), generator=draw) < 0.5
    return torch.where(through.view(-1, 1, 1, 1), again[picked], images[picked])


def jittered(boxes: Tensor, draw: torch.Generator) -> Tensor:
    """The judge's own boxes are not exact: each edge moves by up to 5 % of the box."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (torch.rand(boxes.shape, generator=draw) - 0.5) * 0.10


def disturbed(x: Tensor, draw: torch.Generator) -> Tensor:
    """A model's pictures are a little noisy or soft: noise up to 0.1, and on half of them some blur."""
    shape = (len(x), 1, 1, 1)
    soft = (torch.rand(shape, generator=draw) - 0.5).clamp(min=0)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), soft)
    return x + (torch.rand(x.shape, generator=draw) - 0.5) * torch.rand(shape, generator=draw) * 0.2


def round_trips(images: Tensor, weights: Path, cache: Path) -> Tensor:
    """The images after the VAE's encoder and decoder; as they are while there is no VAE."""
    file = Path(weights) / "vae.safetensors"
    if not file.exists():
        return images
    mark = hashlib.blake2b(file.read_bytes() + images[::1000].numpy().tobytes(), digest_size=6).hexdigest()
    path = cache / f"judge-vae-{mark}.npy"
    if not path.exists():
        vae = AutoencoderKL(ddconfig=dict(AUTOENCODER), embed_dim=CHANNELS)
        vae.load_state_dict(read_weights(weights, "vae"))
        part = path.with_suffix(".part.npy")
        np.save(part, torch.cat([round_trip(vae, chunk) for chunk in images.split(64)]).numpy())
        part.replace(path)
    return torch.from_numpy(np.load(path))


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = decode(vae, moments(vae, pixels(images))[0])
    return ((y.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
