"""The training losses, each against its formula written the other way round."""

import pytest
import torch
from concept_loom.personalization.objectives import (
    attention_regulariser,
    denoising_loss,
    min_snr,
    prior_preservation,
    self_regularisation,
    soft_mask,
    subject_contrast,
)
from concept_loom.personalization.sites import Site

SITES = Site("input", 1, 0), Site("middle", 0, 0)
GENERATOR = torch.Generator().manual_seed(0)
X0, NOISE, GUESS = (torch.randn(3, 4, 8, 8, generator=GENERATOR) for _ in range(3))
SIGMA = torch.tensor([0.1, 1.0, 7.0])
S = SIGMA.view(-1, 1, 1, 1)


def test_with_the_weight_of_eps_it_is_the_squared_error_of_eps() -> None:
    denoised = (X0 + S * NOISE) - S * GUESS
    expected = (GUESS - NOISE).square().mean((1, 2, 3))
    torch.testing.assert_close(denoising_loss(denoised, X0, SIGMA**-2), expected, rtol=1e-3, atol=1e-4)


def test_with_the_weight_of_v_it_is_the_squared_error_of_v() -> None:
    root = (S**2 + 1).sqrt()
    denoised = (X0 + S * NOISE) / root**2 - GUESS * S / root  # ComfyUI's V_PREDICTION with unit data
    truth = (NOISE - S * X0) / root
    weight = (SIGMA**2 + 1) / SIGMA**2
    expected = (GUESS - truth).square().mean((1, 2, 3))
    torch.testing.assert_close(denoising_loss(denoised, X0, weight), expected, rtol=1e-3, atol=1e-4)


def test_errors_outside_a_hard_mask_do_not_count() -> None:
    mask = torch.zeros(3, 1, 8, 8)
    mask[..., :4] = 1
    wrong = X0.clone()
    wrong[..., 4:] += 100
    assert denoising_loss(wrong, X0, torch.ones(3), mask).tolist() == [0, 0, 0]
    assert (denoising_loss(wrong, X0, torch.ones(3), soft_mask(mask, 0.1)) > 0).all()


def test_the_size_of_a_mask_does_not_scale_the_loss() -> None:
    small, full = torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
    small[..., 0, 0] = 1
    off = X0 + 1
    assert torch.allclose(denoising_loss(off, X0, SIGMA, small), denoising_loss(off, X0, SIGMA, full))


def test_an_outside_weight_of_one_ignores_the_mask() -> None:
    mask = torch.rand(3, 1, 8, 8)
    assert torch.equal(soft_mask(mask, 1.0), torch.ones_like(mask))


@pytest.mark.parametrize(("gamma", "expected"), [(5.0, [5.0, 1.0, 0.25]), (0.0, [100.0, 1.0, 0.25])])
def test_min_snr_caps_the_weight_of_nearly_clean_latents(gamma: float, expected: list[float]) -> None:
    assert min_snr(torch.tensor([0.1, 1.0, 2.0]) ** -2, gamma).tolist() == pytest.approx(expected)


def test_prior_preservation_is_half_the_loss_and_half_the_distance_to_the_frozen_model() -> None:
    weight = SIGMA**-2
    frozen = X0 + NOISE
    expected = [
        0.5 * w * ((g - x).square().mean() + (g - f).square().mean())
        for w, g, x, f in zip(weight, GUESS, X0, frozen, strict=True)
    ]
    torch.testing.assert_close(prior_preservation(GUESS, X0, frozen, weight), torch.stack(expected))
    assert prior_preservation(X0, X0, X0, weight).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("squared", "expected"), [(False, (5 + 1) / 2), (True, (25 + 1) / 2)])
def test_self_regularisation_is_the_mean_distance_over_the_sites(squared: bool, expected: float) -> None:
    means = {SITES[0]: torch.zeros(2), SITES[1]: torch.ones(2)}
    tokens = {SITES[0]: torch.tensor([[3.0, 4.0]]), SITES[1]: torch.tensor([[1.0, 2.0]])}
    assert float(self_regularisation(tokens, means, squared)) == pytest.approx(expected)


def test_the_contrast_is_infonce_over_other_pictures_and_all_sceneries() -> None:
    v, b = (torch.nn.functional.normalize(torch.randn(4, 6, generator=GENERATOR), dim=-1) for _ in range(2))
    picture, t = torch.tensor([0, 0, 1, 2]), 0.1
    losses = []
    for i in range(4):
        agree = torch.stack([torch.exp(v[i] @ v[j] / t) for j in range(4) if picture[j] != picture[i]]).sum()
        repel = torch.stack([torch.exp(v[i] @ b[k] / t) for k in range(4)]).sum()
        losses.append(-torch.log(agree / (agree + repel)))
    torch.testing.assert_close(subject_contrast(3 * v, 5 * b, picture, t), torch.stack(losses).mean())


def _literally(layers: list[torch.Tensor], w_mean: float, w_var: float) -> float:
    """arXiv 2406.05000 sample by sample, for [V] in column 0 and its category in column 1."""
    total = 0.0
    for layer in layers:
        for sample in layer:  # (heads, n, 2)
            of = [[float(sample[h, i, token]) for h in range(3) for i in range(4)] for token in (0, 1)]
            m_v, m_c = (sum(values) / 12 for values in of)
            v_v, v_c = (sum((x - m) ** 2 for x in values) / 11 for values, m in zip(of, (m_v, m_c), strict=True))
            total += w_mean * (m_v - m_c) ** 2 + w_var * (v_v - v_c) ** 2
    return total / len(layers)


@pytest.mark.parametrize(("w_mean", "w_var"), [(0.1, 0.0), (2.0, 5.0), (0.0, 1.0)])
def test_the_attention_regulariser_is_the_papers(w_mean: float, w_var: float) -> None:
    layers = [torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert float(attention_regulariser(layers, 1, w_mean, w_var)) == pytest.approx(_literally(layers, w_mean, w_var))


def test_a_category_of_several_tokens_counts_by_its_average() -> None:
    one = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    split = torch.cat((one, one[..., 1:]), -1)
    assert float(attention_regulariser([split], 1, 2.0, 5.0)) == pytest.approx(_literally([one], 2.0, 5.0))


def test_the_attention_regulariser_moves_both_words() -> None:
    attention = torch.rand(1, 2, 4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    attention_regulariser([attention], 1, 2.0, 5.0).backward()
    assert attention.grad is not None and (attention.grad.abs().amax((0, 1, 2)) > 0).all()
