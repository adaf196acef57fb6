"""Captions by the frozen model itself: of some phrases those under which it knows a picture best.

A diffusion classifier (Li et al., arXiv 2303.16203, section 3) over phrases c, at noise levels l:

    argmin_c  mean_l ( sum_n L(c, l, n) / sum_n L(nothing, l, n) )      L(c, l, n) = w_l |D(x0 + sigma_l n; c) - x0|^2

As in the paper the noises n are the same for all c, and few looks at all of them choose who gets more. Ours: nothing's
loss as the unit, so that no level decides alone; nothing itself among the phrases, so that what makes no picture
clearer is not said; and one group of phrases after the other, each beside what was found before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Generator, Tensor

from .denoiser import Denoiser, PromptEncoder
from .objectives import denoising_loss
from .surroundings import Groups

# Percents of sampling: the place, where the thing stands in it, and what is beside it (benchmarks/trials.md).
LEVELS = (0.05, 0.15, 0.5)
FIRST, ALL = 1, 4  # noises at each level: for every phrase, for those that came nearest
FINALISTS = 2
SEED = 20_261_123

Phrases = tuple[str, ...]


def predictions(groups: Groups) -> int:
    """How many a picture takes."""
    finalists = sum(1 + min(len(group), FINALISTS) for group in groups)
    return len(LEVELS) * (FIRST * sum(1 + len(group) for group in groups) + (ALL - FIRST) * finalists)


@dataclass(frozen=True)
class Captioner:
    """`wording` makes the prompt that holds some phrases; `watch` gets the size of each batch before it is predicted,
    and may raise."""

    denoiser: Denoiser
    encoder: PromptEncoder
    wording: Callable[[Phrases], str]
    batch_size: int = 1
    watch: Callable[[int], None] = lambda size: None

    @torch.no_grad()
    def phrases(self, x0: Tensor, groups: Groups) -> Phrases:
        """Of the latents (c, h, w) of a picture: of each group one phrase, or none."""
        noises = torch.randn(len(LEVELS), ALL, *x0.shape, generator=Generator().manual_seed(SEED))
        found: Phrases = ()
        for group in groups:
            found = self._best(x0, noises, [found, *((*found, phrase) for phrase in group)])
        return found

    def _best(self, x0: Tensor, noises: Tensor, asked: Sequence[Phrases]) -> Phrases:
        """Of those asked, the first of which says nothing new."""
        first = self._losses(x0, noises[:, :FIRST], asked)
        nearest = 1 + _relative(first)[1:].argsort()[:FINALISTS]
        chosen = [0, *nearest.tolist()]
        more = self._losses(x0, noises[:, FIRST:], [asked[i] for i in chosen])
        return asked[chosen[int(_relative(torch.cat((first[chosen], more), 2)).argmin())]]

    def _losses(self, x0: Tensor, noises: Tensor, asked: Sequence[Phrases]) -> Tensor:
        """`noises` (levels, looks, c, h, w) -> (asked, levels, looks), on the CPU."""
        device, contexts = self.denoiser.device, [self.encoder.encode(self.wording(one)) for one in asked]
        sigmas = self.denoiser.sigma_at(torch.tensor(LEVELS))
        wanted, losses = list(product(range(len(asked)), *map(range, noises.shape[:2]))), []
        for batch in torch.tensor(wanted).split(self.batch_size):
            self.watch(len(batch))
            which, level, look = batch.unbind(1)
            sigma, clean = sigmas[level].to(device), x0.to(device).expand(len(batch), *x0.shape)
            noised = self.denoiser.add_noise(clean, sigma, noises[level, look].to(clean))
            denoised = self.denoiser.predict(noised, sigma, [contexts[i] for i in which])
            losses.append(denoising_loss(denoised, clean, self.denoiser.loss_weight(sigma)).cpu())
        return torch.cat(losses).view(len(asked), *noises.shape[:2])


def _relative(losses: Tensor) -> Tensor:
    """(asked, levels, looks) -> (asked,), in units of the first's at each level."""
    means = losses.mean(2)
    return (means / means[0]).mean(1)
