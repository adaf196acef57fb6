"""Soft masks: where the frozen model looks for the class word, for pictures that come without a mask.

Under `a photo of a [Class]` the share of attn2 that goes to rows which know of the class word: in a causal encoder
those are its own and all after it, so everything but the rows before it. Averaged over heads, sites and noise levels;
then 0 up to Otsu's threshold (1979) between the two groups of positions, 1 from the mean of the brighter one on. The
papers have no such masks: all of this is ours. It finds things, not this thing: also what stands beside the subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from .composition import PlacedConcept
from .concept import Concept, ConceptInfo
from .denoiser import Context, Denoiser, Observation, Observer, PromptEncoder
from .latents import TrainingLatents
from .prior import PROMPT
from .sites import Site, grid_of

PERCENTS = (0.35, 0.5, 0.65)  # of sampling; on the playground later levels tell no more
COARSEST = 8  # positions a side: on coarser grids the maps point nowhere (the playground's, 4 x 4)
SEED = 20_250_807
WORD = "concept-loom-soft-mask"


def with_soft_masks(
    latents: TrainingLatents, denoiser: Denoiser, encoder: PromptEncoder, class_word: str
) -> TrainingLatents:
    """`latents` in which pictures without a mask of their own have a soft one."""
    if not class_word:
        return latents
    context, before = _asked(denoiser, encoder, class_word)

    def filled(pictures: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        pairs = zip(pictures, masks, strict=True)
        return tuple(m if has_mask(m) else soft_mask_of(x0[None], denoiser, context, before)[0] for x0, m in pairs)

    return replace(
        latents, masks=filled(latents.train, latents.masks), held_masks=filled(latents.held_out, latents.held_masks)
    )


def soft_masks(latents: Tensor, denoiser: Denoiser, encoder: PromptEncoder, class_word: str) -> Tensor:
    """Latents (n, c, h, w) -> (n, 1, h, w) in 0..1, on the CPU."""
    context, before = _asked(denoiser, encoder, class_word)
    return torch.cat([soft_mask_of(x0, denoiser, context, before) for x0 in latents.split(1)])


def has_mask(mask: Tensor) -> bool:
    """Whether `mask` leaves something out; a picture without a mask has one of ones."""
    return bool((mask < 1).any())


@torch.no_grad()
def soft_mask_of(x0: Tensor, denoiser: Denoiser, context: Context, before: int) -> Tensor:
    """One picture's latents (1, c, h, w) -> (1, 1, h, w); the context's first `before` rows do not know of the word."""
    maps: list[Tensor] = []
    size = (x0.shape[-2], x0.shape[-1])

    def see(site: Site, seen: Observation) -> None:
        grid = grid_of(seen.hidden.shape[1], size)
        if grid and seen.attention is not None and min(grid) >= min(COARSEST, *size):
            knows = 1 - seen.attention.sum(-1).mean(1)  # (1, n)
            maps.append(interpolate(knows.view(1, 1, *grid), size, mode="bilinear"))

    columns = torch.arange(before, device=denoiser.device)[None]
    generator = Generator().manual_seed(SEED)
    for percent in PERCENTS:
        noise = torch.randn(x0.shape, generator=generator).to(denoiser.device)
        sigma = denoiser.sigma_at(torch.tensor([percent])).to(denoiser.device)
        noised = denoiser.add_noise(x0.to(denoiser.device), sigma, noise)
        denoiser.predict(noised, sigma, [context], observer=Observer(see, columns))
    if not maps:  # another pack owns every site: nothing was seen
        return torch.ones(1, 1, *size)
    return parted(torch.stack(maps).mean(0).cpu())  # Macs have no float64


def parted(values: Tensor) -> Tensor:
    """Any shape -> the same in 0..1: 0 up to Otsu's threshold t, 1 from the mean of what is above it on."""
    ordered = values.flatten().double().sort().values
    count = torch.arange(1, len(ordered), device=values.device)
    total = ordered.cumsum(0)
    low, high = total[:-1] / count, (total[-1] - total[:-1]) / (len(ordered) - count)  # means below and above
    best = int((count * (len(ordered) - count) * (high - low).square()).argmax())
    low, high = float(low[best]), float(high[best])
    if high <= low:
        return torch.ones_like(values)
    threshold = (low + high) / 2
    return ((values - threshold) / (high - threshold)).clamp(0, 1)


def _asked(denoiser: Denoiser, encoder: PromptEncoder, class_word: str) -> tuple[Context, int]:
    """The class's own prompt, and how many rows stand before its word."""
    info = ConceptInfo(WORD, WORD, "[V]", class_word, "subject", denoiser.base)
    context = encoder.encode(PROMPT.format(f"<{WORD}>"), (PlacedConcept(Concept(info, {})),))
    return context, min(rows[0] for rows in context.slots[0].rows.values())
