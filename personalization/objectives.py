"""Objectives: what a concept is trained to minimise. Each is named by its equation and usable alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .sites import Site


def denoising_loss(denoised: Tensor, x0: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Latent diffusion (Rombach et al., arXiv 2112.10752, eq. 3) written for the denoised latents, per sample:

        L_b = w(sigma_b) mean_m (D(x0 + sigma n; sigma, c) - x0)^2        mean_m weighted by the mask m

    With w = 1 / sigma^2 it is the loss on eps, with w = (sigma^2 + 1) / sigma^2 the loss on v.
    `denoised`, `x0` (b, c, h, w), `weight` (b,), `mask` (b, 1, h, w) -> (b,), fp32.
    """
    error = (denoised.float() - x0.float()).square().mean(1, keepdim=True)  # (b, 1, h, w)
    share = torch.ones_like(error) if mask is None else mask.to(error)
    return weight.float() * (error * share).sum((1, 2, 3)) / share.sum((1, 2, 3)).clamp_min(1e-6)


def min_snr(weight: Tensor, gamma: float) -> Tensor:
    """Min-SNR (Hang et al., arXiv 2303.09556, section 3.4) for losses on x0: w = min(SNR, gamma), gamma 5 in the paper.

    `weight` (b,) is the model's own: the SNR for eps, SNR + 1 for v. gamma 0 leaves it alone.
    """
    return weight.clamp(max=gamma) if gamma else weight


def prior_preservation(denoised: Tensor, x0: Tensor, frozen: Tensor, weight: Tensor) -> Tensor:
    """DPP (CoAR, arXiv 2508.07341) for denoisers, per sample, on pictures of the class:

        L_DPP = 1/2 L_denoise(denoised, x0) + 1/2 w |frozen - denoised|^2

    The second term is the KL of the paper between two Gaussians of equal variance. Shapes as in `denoising_loss`.
    """
    return 0.5 * denoising_loss(denoised, x0, weight) + 0.5 * denoising_loss(denoised, frozen, weight)


def self_regularisation(tokens: Mapping[Site, Tensor], means: Mapping[Site, Tensor], squared: bool = False) -> Tensor:
    """CASR (CoAR, arXiv 2508.07341): (1/N) sum_i |p_I^(i) - E_subject^(i)|_2 over the N sites; one source squares it.

    `tokens[site]` (m, width), `means[site]` (width,).
    """
    distances = [(rows - means[site].to(rows)).norm(dim=-1).mean() for site, rows in tokens.items()]
    return torch.stack([one.square() if squared else one for one in distances]).mean()


def subject_contrast(subject: Tensor, scenery: Tensor, picture: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE for the attractor (arXiv 2503.06632; the form is ours) over pools (b, w) of samples from `picture` (b,):

        -log( sum_j e^(v_i v_j / T) / (sum_j e^(v_i v_j / T) + sum_k e^(v_i b_k / T)) )        j of other pictures

    averaged over i. The samples are of two pictures at least, so that every i has such a j.
    """
    v, b = (torch.nn.functional.normalize(pools.float(), dim=-1) for pools in (subject, scenery))
    other = picture[:, None] != picture
    positive = (v @ v.T / temperature).masked_fill(~other, -torch.inf).logsumexp(1)
    every = torch.cat((positive[:, None], v @ b.T / temperature), 1).logsumexp(1)
    return (every - positive).mean()


def attention_regulariser(attention: Sequence[Tensor], slots: int, w_mean: float, w_var: float) -> Tensor:
    """AttnDreamBooth (arXiv 2406.05000, eq. 3, and its authors' code): [V] takes as much attention as its category C.

        L_reg = (1 / layers) sum_l sum_b [ w_mean (m_V - m_C)^2 + w_var (v_V - v_C)^2 ]

    m and v are a token's mean and unbiased variance over heads and positions jointly; of several tokens their averages.
    `attention[l]` (b, heads, n, k), fp32: probabilities of the `slots` tokens of [V], then of those of C.
    """
    total = torch.zeros((), device=attention[0].device)
    for probabilities in attention:
        every = probabilities.flatten(1, 2)  # (b, heads n, k)
        mean, variance = (one[:, :slots].mean(1) - one[:, slots:].mean(1) for one in (every.mean(1), every.var(1)))
        total = total + (w_mean * mean.square() + w_var * variance.square()).sum()
    return total / len(attention)


def soft_mask(mask: Tensor, outside: float) -> Tensor:
    """`mask` (b, 1, h, w) with the weight `outside` (0..1) where it is 0, so that 1 ignores the mask."""
    return outside + (1 - outside) * mask
