"""Soft masks: where the frozen model looks for the class word, and what becomes of a picture's own mask."""

from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.attractor import mask_split
from concept_loom.personalization.denoiser import Observation
from concept_loom.personalization.methods import Beginning, task_of
from concept_loom.personalization.objectives import denoising_loss
from concept_loom.personalization.recipe import Recipe, Stage
from concept_loom.personalization.sites import Site, grid_of
from concept_loom.personalization.soft_masks import has_mask, parted, soft_masks, with_soft_masks

from .toy import BASE, ToyDenoiser, ToyPromptEncoder, toy_latents

FINE, COARSE = Site("output", 3, 0), Site("middle", 0, 0)
ROWS = Recipe("quick", (Stage(("context_rows.",), 3e-2),), steps=4, batch_size=4)


class Looking(ToyDenoiser):
    """Looks for the word in the left half of a 16 x 8 picture, on a coarse site everywhere else."""

    def predict(self, noised, sigma, contexts, composition=(), observer=None):
        assert observer and observer.columns is not None
        (asked,) = observer.columns.shape[1:]
        for site, grid in ((FINE, (16, 8)), (COARSE, (4, 2))):
            knows = torch.full(grid, 0.2)
            knows[:, : grid[1] // 2] = 0.6 if site == FINE else 0.0
            before = (1 - knows).view(1, 1, -1, 1).expand(1, 2, -1, asked) / asked
            observer.see(site, Observation(torch.zeros(1, knows.numel(), 3), before))
        return noised


def test_the_mask_is_where_attention_goes_to_rows_that_know_the_word() -> None:
    (mask,) = soft_masks(torch.zeros(1, 4, 16, 8), Looking(), ToyPromptEncoder(), "mug")
    assert mask.shape == (1, 16, 8)
    assert torch.allclose(mask[0, :, :4], torch.ones(16, 4)) and not mask[0, :, 4:].any()


def test_two_groups_are_parted_between_their_means_and_one_value_is_left_whole() -> None:
    values = torch.tensor([0.10, 0.12, 0.11, 0.09, 0.50, 0.54, 0.3, 0.58])
    mask = parted(values)
    assert not mask[:4].any() and mask[4:6].min() > 0.5 and mask[7] == 1
    assert torch.equal(parted(3 * values + 1).round(decimals=4), mask.round(decimals=4))
    assert torch.equal(parted(torch.full((4,), 0.3)), torch.ones(4))


@pytest.mark.parametrize(("tokens", "grid"), [(128, (16, 8)), (8, (4, 2)), (32, (8, 4)), (31, None)])
def test_a_sites_grid_is_known_by_its_tokens(tokens: int, grid: tuple[int, int] | None) -> None:
    assert grid_of(tokens, (16, 8)) == grid


def test_a_picture_keeps_its_own_mask_and_another_gets_a_soft_one() -> None:
    latents = toy_latents(train=2, held_out=1)
    own = torch.stack(latents.masks)
    own[0, :, :2] = 0
    found = with_soft_masks(replace(latents, masks=tuple(own)), ToyDenoiser(), ToyPromptEncoder(), "mug")
    assert torch.equal(found.masks[0], own[0])
    for mask in (found.masks[1], found.held_masks[0]):
        assert mask.min() == 0 and mask.max() == 1
    assert found.train == latents.train


@pytest.mark.parametrize(("role", "soft"), [("subject", True), ("style", False)])
def test_only_what_has_a_subject_gets_soft_masks(role: str, soft: bool) -> None:
    recipe = replace(ROWS, soft_masks=True)
    beginning = Beginning(ToyPromptEncoder(), BASE, recipe, "mug", "mug", role)
    task = task_of(replace(beginning, denoiser=ToyDenoiser(), latents=toy_latents(held_out=0)), seed=0)
    assert any(map(has_mask, task.latents.masks)) == soft


def test_inside_is_asked_of_the_subject_and_outside_of_the_attractor_where_there_is_a_mask() -> None:
    x0, weight = torch.zeros(2, 4, 4, 4), torch.ones(2)
    denoised = torch.ones(2, 4, 4, 4)
    denoised[..., 2:] = 3.0
    mask = torch.ones(2, 1, 4, 4)
    mask[0, ..., 2:] = 0
    inside, outside = mask_split(denoised, x0, weight, mask)
    whole = denoising_loss(denoised, x0, weight)
    torch.testing.assert_close(inside, torch.tensor([1.0, float(whole[1])]))
    torch.testing.assert_close(outside, torch.tensor([9.0, float(whole[1])]))
