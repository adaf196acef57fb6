"""The judges' training: surroundings and places from whole pictures, objects from crops, styles from groups of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...personalization.muon import Muon
from ..autoencoder import PatchAutoencoder
from ..judge import CROP_HEADS, NAMES, WHOLE_HEADS, new_networks, pixels, save_judge, split_heads
from ..judge_networks import FEATURES, OBJECT, Crop, Frame, Seen, Style, Thing, Whole, closer, cut, framed
from ..model import CHANNELS, read_weights
from . import autoencoder
from .judge_pictures import FACTOR_NAMES, LOOKS, UNKNOWN, VIEWS, Scenes, Views, scenes, views
from .state import Run, report, warm_then_decay

SCENE_PICTURES, VIEW_PICTURES = 64_000, 240_000
STEPS = {"whole": 3500, "crop": 54_500, "style": 9000}
SCENES, STYLES, FAMILIES = 128, 32, 20  # in a batch
RATE = 4e-3
TEMPERATURE = 0.1
IMPORTANCE = torch.tensor([10.0] * 3 + [1.0] * 9)  # of an instance's numbers: three of its shape, three colours


def train(cache: Path, weights: Path, names: tuple[str, ...] = NAMES, workers: int = 1) -> None:
    """Half of what the judges see went through the VAE, as it is then: at first a linear one."""
    seen, near = scenes(cache, SCENE_PICTURES, workers), views(cache, VIEW_PICTURES, workers)
    vae = latest_vae(weights, seen.images)
    seen = seen._replace(images=half_through(vae, seen.images))
    near = near._replace(images=half_through(vae, near.images))
    for name in names:
        torch.manual_seed(31 + NAMES.index(name))
        networks = new_networks(name)
        _train_whole(networks.whole, seen, cache / f"judge-{name}-whole.pt")
        _train_crop(networks.crop, near, cache / f"judge-{name}-crop.pt")
        _train_style(networks.style, seen, cache / f"judge-{name}-style.pt")
        save_judge(networks, Path(weights) / f"judge-{name}.safetensors")


def _learn(module: nn.Module, path: Path, steps: int, loss: Callable[[torch.Generator], Tensor]) -> None:
    draw = torch.Generator().manual_seed(41)
    run = Run(path, module, Muon(module.parameters(), RATE, precision=torch.bfloat16), draw, decay=0.99)
    report(path.stem, run.steps(steps, warm_then_decay(RATE, steps, cooldown=0.6), lambda step: loss(draw)))
    module.load_state_dict(run.weights())


def _train_whole(whole: Whole, data: Scenes, path: Path) -> None:
    def loss(draw: torch.Generator) -> Tensor:
        picked = torch.randint(len(data.images), (SCENES,), generator=draw)
        x = disturbed(pixels(data.images[picked]), draw)
        with torch.autocast("cpu", torch.bfloat16):
            seen = whole(x)
        return scene_loss(seen, data.answers[picked], data.boxes[picked])

    _learn(whole, path, STEPS["whole"], loss)


def scene_loss(seen: Seen, answers: Tensor, boxes: Tensor) -> Tensor:
    known = ~boxes.isnan()
    return answers_loss(split_heads(seen.logits, WHOLE_HEADS), answers) + 10 * F.l1_loss(
        seen.boxes[known], boxes[known]
    )


def answers_loss(parts: tuple[Tensor, ...], answers: Tensor) -> Tensor:
    """Cross entropy summed over the heads, each a mean over the pictures on which it can be told."""
    losses = [
        F.cross_entropy(part, right, reduction="sum", ignore_index=UNKNOWN) / (right != UNKNOWN).sum().clamp(min=1)
        for part, right in zip(parts, answers.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum()


class Pairs(nn.Module):
    """Two losses over all pairs of unit vectors in a batch; equal labels are to agree."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(-5.0))

    def forward(self, z: Tensor, labels: Tensor, families: Tensor) -> Tensor:
        return contrast(z, labels) + 2 * self.verification(z, labels, families)

    def verification(self, z: Tensor, labels: Tensor, families: Tensor) -> Tensor:
        """Logistic loss with one threshold for all; strangers and members of the same family count alike."""
        logits = z @ z.T * self.scale.exp() + self.bias
        same, family = labels[:, None] == labels, families[:, None] == families
        right = F.softplus(-logits[same & ~torch.eye(len(z), dtype=torch.bool)]).mean()
        wrong = [F.softplus(logits[pairs]).mean() for pairs in (family & ~same, ~family) if pairs.any()]
        return right + torch.stack(wrong).mean()


def contrast(z: Tensor, labels: Tensor) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out): equal labels attract, all others repel."""
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / TEMPERATURE).masked_fill(itself, -1e4)
    same = (labels[:, None] == labels) & ~itself
    return -(logits.log_softmax(1) * same).sum() / same.sum()


class CropStudy(nn.Module):
    """A crop's network with the heads that only its training has: names and numbers of an instance's factors."""

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        self.crop, self.pairs = crop, Pairs()
        self.names = nn.Linear(FEATURES, sum(map(len, FACTOR_NAMES.values())))
        self.numbers = nn.Linear(FEATURES, 12)

    def loss(self, near: Views, draw: torch.Generator) -> Tensor:
        frame = framed(jittered(near.boxes, draw))
        true = _inside(near.places, frame)
        with torch.autocast("cpu", torch.bfloat16):
            thing, guess = self._look(pixels(near.images), frame, true, draw)
            names, numbers = self.names(thing.features).float(), self.numbers(thing.features).float()
        told = answers_loss(split_heads(thing.logits, CROP_HEADS), near.answers)
        told = told + answers_loss(split_heads(names, FACTOR_NAMES), near.names)
        measured = ((numbers - near.numbers) ** 2).mean(0) @ IMPORTANCE + 5 * F.l1_loss(guess, true)
        return told + measured + self.pairs(thing.identity, near.instances, near.instances // 2)

    def _look(self, x: Tensor, frame: Frame, true: Tensor, draw: torch.Generator) -> tuple[Thing, Tensor]:
        """The closer looks fall near the true places for half of the pictures."""
        first = self.crop.reader(disturbed(cut(x, frame, OBJECT), draw))
        guess = self.crop.places(first)
        near = true + (torch.rand(true.shape, generator=draw) - 0.5) * 0.2
        where = torch.where(torch.rand((len(x), 1), generator=draw) < 0.5, near, guess.detach())
        return self.crop.read(first, *(disturbed(part, draw) for part in closer(x, frame, where))), guess


def _inside(places: Tensor, frame: Frame) -> Tensor:
    """Places of a picture (n, 5) in 0..1 as a frame sees them."""
    points = (places[:, :4].unflatten(1, (2, 2)) * 2 - 1 - frame.centre[:, None]) / frame.half[:, None, None]
    return torch.cat([points.flatten(1), 2 * places[:, 4:] / frame.half[:, None]], 1)


def _train_crop(crop: Crop, data: Views, path: Path) -> None:
    study = CropStudy(crop)

    def loss(draw: torch.Generator) -> Tensor:
        picked = _groups(torch.arange(len(data.images)), 2 * VIEWS, FAMILIES, draw)
        return study.loss(Views(*(part[picked] for part in data)), draw)

    _learn(study, path, STEPS["crop"], loss)


class StyleStudy(nn.Module):
    """A style's network with a head for the style's own numbers, which only its training has."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style, self.pairs, self.looks = style, Pairs(), nn.Linear(FEATURES, LOOKS)

    def loss(self, x: Tensor, styles: Tensor, looks: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features = self.style.features(x)
        features = features.float()
        z = F.normalize(self.style.embed(features), dim=1)
        return self.pairs(z, styles, styles) + 10 * F.mse_loss(self.looks(features), looks)


def _train_style(style: Style, data: Scenes, path: Path) -> None:
    """Three batches' parts in four are of styles without a name: those have to be told apart unseen."""
    study, named = StyleStudy(style), len(WHOLE_HEADS["style"])
    kinds = [(data.styles >= named).nonzero()[:, 0], (data.styles < named).nonzero()[:, 0]]

    def loss(draw: torch.Generator) -> Tensor:
        sizes = (STYLES * 3 // 4, STYLES // 4)
        picked = torch.cat([_groups(kind, VIEWS, size, draw) for kind, size in zip(kinds, sizes, strict=True)])
        x = disturbed(pixels(data.images[picked]), draw)
        return study.loss(x, data.styles[picked], data.looks[picked])

    _learn(study, path, STEPS["style"], loss)


def _groups(rows: Tensor, size: int, groups: int, draw: torch.Generator) -> Tensor:
    """Some groups of `size` rows that follow each other."""
    return rows.view(-1, size)[torch.randint(len(rows) // size, (groups,), generator=draw)].flatten()


def jittered(boxes: Tensor, draw: torch.Generator) -> Tensor:
    """The judge's own boxes are not exact: each edge moves by up to 5 % of the box."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + sides * (torch.rand(boxes.shape, generator=draw) - 0.5) * 0.10


def disturbed(x: Tensor, draw: torch.Generator) -> Tensor:
    """A model's pictures are a little noisy or soft, in a light of their own: half of them blurred."""
    shape = (len(x), 1, 1, 1)
    light = 1 + (torch.rand((len(x), 3, 1, 1), generator=draw) - 0.5) * 0.1
    light = light + (torch.rand(shape, generator=draw) - 0.5) * 0.2
    x = (x + 1) * light - 1
    soft = (torch.rand(shape, generator=draw) - 0.5).clamp(min=0)
    x = torch.lerp(x, F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), soft)
    return x + (torch.rand(x.shape, generator=draw) - 0.5) * torch.rand(shape, generator=draw) * 0.2


def latest_vae(weights: Path, images: Tensor) -> PatchAutoencoder:
    """The trained one; while there is none, the linear one that its training starts from."""
    if not (Path(weights) / "vae.safetensors").exists():
        return autoencoder.new(images)
    vae = PatchAutoencoder(CHANNELS)
    vae.load_state_dict(read_weights(weights, "vae"))
    return vae


def half_through(vae: PatchAutoencoder, images: Tensor) -> Tensor:
    """Every other picture after the VAE."""
    images = images.clone()
    for part in images[1::2].split(256):
        part.copy_(through(vae, part))
    return images


@torch.no_grad()
def through(vae: PatchAutoencoder, images: Tensor) -> Tensor:
    x = vae.decode(vae.encode(pixels(images)))
    return ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
