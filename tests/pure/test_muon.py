"""Muon moves every direction of a matrix alike, by AdamW's size, and goes on from its state."""

import copy

import pytest
import torch
from concept_loom.personalization.muon import SIZE, Muon, orthogonal
from torch import Tensor


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(8, 320), (320, 8), (3, 8, 320)])
def test_the_singular_values_of_what_is_orthogonal_are_about_one(shape: tuple[int, ...]) -> None:
    skewed = seeded(*shape) * torch.linspace(1, 20, shape[-1])
    values = torch.linalg.svdvals(orthogonal(skewed))
    u, _, vh = torch.linalg.svd(skewed, full_matrices=False)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.cosine_similarity(orthogonal(skewed).flatten(), (u @ vh).flatten(), dim=0) > 0.97


def step(optimizer: Muon, *grads: Tensor) -> None:
    for weight, grad in zip(optimizer.param_groups[0]["params"], grads, strict=True):
        weight.grad = grad.clone()
    optimizer.step()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_step_has_adamws_size_whatever_the_gradients(scale: float) -> None:
    weight = torch.zeros(8, 320)
    step(Muon([weight], 0.1), scale * seeded(8, 320))
    assert weight.square().mean().sqrt() == pytest.approx(0.1 * SIZE, rel=0.2)


def test_weights_of_one_shape_move_together_as_they_would_alone() -> None:
    grads = [seeded(4, 16), seeded(4, 16) + 1, seeded(16, 4), seeded(5)]
    together = [torch.ones_like(grad) for grad in grads]
    step(Muon(together, 0.1), *grads)
    for weight, grad in zip(together, grads, strict=True):
        alone = torch.ones_like(grad)
        step(Muon([alone], 0.1), grad)
        assert torch.allclose(alone, weight, atol=1e-6) and not torch.equal(weight, torch.ones_like(weight))


def test_what_has_no_gradient_stays() -> None:
    still, moving = torch.ones(4, 16), torch.ones(4, 16)
    optimizer = Muon([still, moving], 0.1)
    moving.grad = seeded(4, 16)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 16)) and not torch.equal(moving, still)


def test_it_goes_on_from_its_state() -> None:
    grads = [seeded(4, 16), seeded(5)]
    whole, parted = [torch.zeros_like(grad) for grad in grads], [torch.zeros_like(grad) for grad in grads]
    first, before = Muon(whole, 0.1), Muon(parted, 0.1)
    step(first, *grads)
    step(before, *grads)
    after = Muon(parted, 0.1)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    turned = [grad.flip(0) for grad in grads]
    step(first, *turned)
    step(after, *turned)
    assert all(map(torch.equal, whole, parted))
