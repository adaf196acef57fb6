"""The judge's networks. `Whole` sees where things are and what surrounds them, `Crop` what one object is, `Style` how
the picture is drawn. The first judge's look through convolutions, the second's through patches and attention.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 128
EMBEDDING = 64
SPREAD = 512  # numbers that keep their place in the picture; the rest is averaged over it
OBJECT, PANEL, ORNAMENT = 32, 24, 16  # pixels across: of the object's cut, and of the closer looks
CLOSE = 64  # numbers from a closer look
MARGIN = 0.10  # around an object, of its longer side
DISC = 0.42  # half of the ornament's frame, of half the object's


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


def convolutions(widths: tuple[int, ...], depth: int) -> nn.Sequential:
    """Halves the side with every width; `depth` residuals after all but the first, whose map is slow on a CPU."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.ReLU()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, 2, 1), *(Residual(after) for _ in range(depth))]
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
    """(n, 3, 8 p, 8 p) -> (n, width, 8, 8), from patches of p pixels."""

    def __init__(self, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            nn.Conv2d(3, 48, patch, patch // 2, patch // 4), nn.ReLU(), nn.Conv2d(48, width, 2, 2)
        )
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.places)
        return tokens.transpose(1, 2).unflatten(2, (8, 8))


class Reader(nn.Module):
    """The trunk's map averaged, and a thin copy of it laid flat: (n, FEATURES)."""

    def __init__(self, trunk: nn.Module, side: int) -> None:
        super().__init__()
        with torch.no_grad():
            _, channels, height, width = trunk.eval()(torch.zeros(1, 3, side, side)).shape
        thin = SPREAD // (height * width)
        self.trunk, self.norm = trunk.train(), nn.BatchNorm2d(channels)
        self.thin = nn.Conv2d(channels, thin, 1)
        self.mix = nn.Linear(channels + thin * height * width, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.trunk(x)))
        return F.relu(self.mix(torch.cat([x.mean((2, 3)), self.thin(x).flatten(1)], 1)))


def close_convolutions(side: int) -> nn.Sequential:
    """(n, 3, side, side) -> (n, CLOSE)"""
    stem = [nn.Conv2d(3, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1), nn.BatchNorm2d(64)]
    ends = [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*stem, *ends, nn.Linear(32 * (side // 4) ** 2, CLOSE), nn.ReLU())


def close_layers(side: int) -> nn.Sequential:
    """(n, 3, side, side) -> (n, CLOSE)"""
    inner = [nn.Linear(3 * side**2, 88), nn.ReLU(), nn.Linear(88, 88), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(88, CLOSE), nn.ReLU())


class Seen(NamedTuple):
    logits: Tensor  # (n, all answers of all heads)
    boxes: Tensor  # (n, 3, 4): the only object's, the left one's, the right one's; x0, y0, x1, y1 in 0..1
    scene: Tensor  # (n, FEATURES)


class Whole(nn.Module):
    def __init__(self, reader: Reader, answers: int) -> None:
        super().__init__()
        self.reader = reader
        self.answers, self.boxes = nn.Linear(FEATURES, answers), nn.Linear(FEATURES, 12)

    def forward(self, x: Tensor) -> Seen:  # (n, 3, 64, 64), -1..1
        scene = self.reader(x)
        return Seen(self.answers(scene).float(), self.boxes(scene).float().unflatten(1, (3, 4)), scene.float())


class Frame(NamedTuple):
    """Squares in pictures whose x and y run from -1 to 1."""

    centre: Tensor  # (n, 2)
    half: Tensor  # (n,)

    def inner(self, place: Tensor, size: Tensor | float) -> "Frame":
        """A smaller square at a place (n, 2) in this one's own -1..1."""
        return Frame(self.centre + place * self.half[:, None], self.half * size)


def framed(boxes: Tensor) -> Frame:
    """Around the boxes (n, 4) in 0..1, with a margin."""
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=0.05) * (1 + 2 * MARGIN)
    return Frame(boxes[:, :2] + boxes[:, 2:] - 1, half)


def cut(x: Tensor, frame: Frame, side: int) -> Tensor:
    """What the frames show: (n, 3, side, side)."""
    scale = frame.half[:, None].expand(-1, 2).diag_embed()
    grid = F.affine_grid(torch.cat([scale, frame.centre[..., None]], 2), [len(x), 3, side, side], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class Thing(NamedTuple):
    logits: Tensor  # (n, all answers of all heads)
    identity: Tensor  # (n, EMBEDDING), unit
    features: Tensor  # (n, FEATURES)


class Crop(nn.Module):
    """Looks at the object, finds its panel and its ornament, and looks at those more closely."""

    def __init__(self, reader: Reader, panel: nn.Module, ornament: nn.Module, answers: int) -> None:
        super().__init__()
        self.reader, self.panel, self.ornament = reader, panel, ornament
        self.where = nn.Linear(FEATURES, 5)
        self.mix = nn.Linear(FEATURES + 2 * CLOSE, FEATURES)
        self.answers, self.identity = nn.Linear(FEATURES, answers), nn.Linear(FEATURES, EMBEDDING)

    def forward(self, x: Tensor, boxes: Tensor) -> Thing:  # (n, 3, h, w) in -1..1; (n, 4) in 0..1
        frame = framed(boxes)
        first = self.reader(cut(x, frame, OBJECT))
        return self.read(first, *closer(x, frame, self.places(first)))

    def places(self, first: Tensor) -> Tensor:
        """(n, 5): the ornament's centre, the panel's centre and half its size, in the frame's -1..1."""
        return self.where(first).float()

    def read(self, first: Tensor, panel: Tensor, ornament: Tensor) -> Thing:
        features = F.relu(self.mix(torch.cat([first, self.panel(panel), self.ornament(ornament)], 1)))
        return Thing(self.answers(features).float(), unit(self.identity(features)), features)


def closer(x: Tensor, frame: Frame, places: Tensor) -> tuple[Tensor, Tensor]:
    """The panel (n, 3, PANEL, PANEL) and the ornament (n, 3, ORNAMENT, ORNAMENT) at those places."""
    ornament, panel, size = places.split([2, 2, 1], 1)
    size = size[:, 0].clamp(0.2, 1.2)
    return cut(x, frame.inner(panel, size), PANEL), cut(x, frame.inner(ornament, DISC), ORNAMENT)


class Style(nn.Module):
    """From each stage's map only how much there is of everything, and how unevenly: where it is, is no style."""

    def __init__(self, stages: list[nn.Module], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.mix = nn.Sequential(nn.Linear(2 * (3 + sum(widths)), 144), nn.ReLU(), nn.Linear(144, FEATURES), nn.ReLU())
        self.embed = nn.Linear(FEATURES, EMBEDDING)

    def forward(self, x: Tensor) -> Tensor:  # (n, 3, 64, 64), -1..1 -> unit vectors (n, EMBEDDING)
        return unit(self.embed(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        found = spread(x)
        for stage in self.stages:
            x = stage(x)
            found += spread(x)
        return self.mix(torch.cat(found, 1))


def spread(x: Tensor) -> list[Tensor]:
    x = x.float()
    return [x.mean((2, 3)), (x.var((2, 3)) + 1e-4).sqrt()]


def style_convolutions(widths: tuple[int, ...]) -> list[nn.Module]:
    sizes = zip((3, *widths), widths, strict=False)
    return [
        nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU())
        for a, b in sizes
    ]


def style_patches(widths: tuple[int, ...]) -> list[nn.Module]:
    """Patches of 8 pixels, then each by itself."""
    stem: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, widths[0], 8, 4, 2), nn.BatchNorm2d(widths[0]), nn.ReLU())]
    sizes = zip(widths, widths[1:], strict=False)
    return stem + [nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in sizes]


def unit(x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=-1)
