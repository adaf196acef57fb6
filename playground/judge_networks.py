"""The judge's networks: a trunk that makes a small map of a picture, and readers of that map.

The first judge's trunks are convolutions, the second's are transformers over patches. `Whole` sees where things are and
what surrounds them, `Crop` sees what one object is.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 128
EMBEDDING = 64
SPREAD = 512  # numbers that keep their place in the picture; the rest is averaged over it


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


def convolutions(widths: tuple[int, ...]) -> nn.Sequential:
    """(n, 3, s, s) -> (n, c, s / 16, s / 16). The largest map, slow on a CPU, has neither norm nor residual."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.ReLU()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, 2, 1), Residual(after)]
    return nn.Sequential(*layers)


class Block(nn.Module):
    """Attention is written out: on a CPU the backward of scaled_dot_product_attention is slower."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # (n, tokens, width)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.to_qkv(self.norm(x)).chunk(3, -1))
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
        x = x + self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """(n, 3, s, s) -> (n, width, s / 8, s / 8)"""

    def __init__(self, side: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 48, 4, 4), nn.ReLU(), nn.Conv2d(48, width, 3, 2, 1))
        self.places = nn.Parameter(0.02 * torch.randn(1, (side // 8) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        tokens = self.blocks(x.flatten(2).transpose(1, 2) + self.places)
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Reader(nn.Module):
    """The map averaged, and a thin copy of it laid flat: (n, FEATURES)."""

    def __init__(self, trunk: nn.Module, side: int) -> None:
        super().__init__()
        with torch.no_grad():
            _, channels, height, width = trunk(torch.zeros(1, 3, side, side)).shape
        thin = SPREAD // (height * width)
        self.trunk, self.norm = trunk, nn.GroupNorm(8, channels)
        self.thin = nn.Conv2d(channels, thin, 1)
        self.mix = nn.Linear(channels + thin * height * width, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.trunk(x)))
        return F.relu(self.mix(torch.cat([x.mean((2, 3)), self.thin(x).flatten(1)], 1)))


class Seen(NamedTuple):
    logits: Tensor  # (n, all answers of all heads)
    boxes: Tensor  # (n, 3, 4): the only object's, the left one's, the right one's; x0, y0, x1, y1 in 0..1
    style: Tensor  # (n, EMBEDDING), unit
    scene: Tensor  # (n, FEATURES)


class Whole(nn.Module):
    def __init__(self, reader: Reader, answers: int) -> None:
        super().__init__()
        self.reader = reader
        self.answers, self.boxes = nn.Linear(FEATURES, answers), nn.Linear(FEATURES, 12)
        self.style = nn.Linear(FEATURES, EMBEDDING)

    def forward(self, x: Tensor) -> Seen:  # (n, 3, 64, 64), -1..1
        scene = self.reader(x)
        boxes = self.boxes(scene).float().unflatten(1, (3, 4))
        return Seen(self.answers(scene).float(), boxes, unit(self.style(scene)), scene.float())


class Thing(NamedTuple):
    logits: Tensor  # (n, all answers of all heads)
    identity: Tensor  # (n, EMBEDDING), unit
    features: Tensor  # (n, FEATURES)


class Crop(nn.Module):
    def __init__(self, reader: Reader, answers: int) -> None:
        super().__init__()
        self.reader = reader
        self.answers, self.identity = nn.Linear(FEATURES, answers), nn.Linear(FEATURES, EMBEDDING)

    def forward(self, x: Tensor) -> Thing:  # (n, 3, 48, 48), -1..1
        features = self.reader(x)
        return Thing(self.answers(features).float(), unit(self.identity(features)), features)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
