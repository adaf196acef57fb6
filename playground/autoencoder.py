"""The playground's VAE network: 8 x 8 patches to principal components and back, with a decoder that reads neighbours.

All work is done at the latents' size, which makes it a hundred times cheaper than a VAE that climbs up to pixels, and
it starts from the exact linear inverse. The encoder is one convolution that is written down, not trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 8
PIXELS = 3 * PATCH * PATCH


class PatchAutoencoder(nn.Module):
    """Pictures (n, 3, h, w) in -1..1 <-> latents (n, channels, h / 8, w / 8); `operations` as in the host's modules."""

    def __init__(self, channels: int, width: int = 160, depth: int = 4, operations: ModuleType | type = nn) -> None:
        super().__init__()
        self.project = operations.Conv2d(3, channels, PATCH, stride=PATCH)
        self.linear = operations.Conv2d(channels, PIXELS, 1)
        self.lift = operations.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width, operations) for _ in range(depth))
        self.detail = operations.Conv2d(width, PIXELS, 3, padding=1)
        self.seams = nn.ModuleList([operations.Conv2d(3, 24, 3, padding=1), operations.Conv2d(24, 3, 3, padding=1)])

    def encode(self, x: Tensor) -> Tensor:
        return self.project(x)

    def decode(self, z: Tensor) -> Tensor:
        hidden = self.lift(z)
        for block in self.blocks:
            hidden = block(hidden)
        x = F.pixel_shuffle(self.linear(z) + self.detail(F.silu(hidden)), PATCH)
        return x + self.seams[1](F.silu(self.seams[0](x)))


class Block(nn.Module):
    """x + conv(silu(conv(silu(x))))"""

    def __init__(self, width: int, operations: ModuleType | type) -> None:
        super().__init__()
        self.inner = operations.Conv2d(width, width, 3, padding=1)
        self.outer = operations.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(F.silu(x))))


@torch.no_grad()
def write_linear(network: PatchAutoencoder, mean: Tensor, weights: Tensor) -> None:
    """Encoder z = weights (x - mean), decoder x = weights^+ z + mean; what is trained starts at zero.

    mean (192,) and weights (channels, 192) over patches laid out as (colour, row, column).
    """
    channels = len(weights)
    network.project.weight.copy_(weights.view(channels, 3, PATCH, PATCH))
    network.project.bias.copy_(-weights @ mean)
    network.linear.weight.copy_(torch.linalg.pinv(weights)[:, :, None, None])
    network.linear.bias.copy_(mean)
    ends = (block.outer for block in cast(Iterable[Block], network.blocks))
    for last in (network.detail, network.seams[1], *ends):
        for parameter in last.parameters():
            parameter.zero_()
