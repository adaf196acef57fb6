"""Training batches and held-out scores: what is drawn, and that it is drawn the same way again."""

from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.batch import Batch, draw
from concept_loom.personalization.evaluation import PERCENTS, held_out_losses, held_out_of
from concept_loom.personalization.recipe import Recipe, Stage

from .toy import ToyDenoiser, ToyPromptEncoder, toy_latents

RECIPE = Recipe("quick", (Stage(("context_rows.",), 1e-2),), steps=10, batch_size=7)
LATENTS = toy_latents(train=5, held_out=3)


def drawn(seed: int = 0, **changes: object) -> Batch:
    texts = tuple((f"picture {i}",) for i in range(5))
    return draw(LATENTS, replace(RECIPE, **changes), texts, torch.Generator().manual_seed(seed))


def test_no_picture_comes_twice_before_all_have_come_once() -> None:
    for seed in range(20):
        texts = drawn(seed, batch_size=12).texts
        assert len(set(texts[:5])) == len(set(texts[5:10])) == 5 and len(set(texts[10:])) == 2


def test_latents_masks_and_texts_belong_together() -> None:
    masks = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 4, 4)
    batch = draw(
        replace(LATENTS, masks=tuple(masks)),
        RECIPE,
        tuple((str(i),) for i in range(5)),
        torch.Generator().manual_seed(0),
    )
    for x0, mask, text in zip(batch.x0, batch.mask, batch.texts, strict=True):
        assert torch.equal(x0, LATENTS.train[int(text)]) and float(mask.max()) == int(text)


def test_noise_levels_cover_the_range_evenly() -> None:
    percent = drawn(3, batch_size=10, sigma_range=(0.2, 0.7)).percent
    assert ((percent - 0.2) / 0.05).floor().tolist() == list(range(10))


def test_each_draw_is_another_one_and_the_same_seed_repeats_them() -> None:
    one, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(one.noise, again.noise) and one.texts == again.texts
    assert not torch.equal(one.noise, other.noise) and not torch.equal(one.percent, other.percent)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_held_out_losses_belong_to_their_noise_levels(batch_size: int) -> None:
    denoiser = ToyDenoiser()
    denoiser.loss_weight = lambda sigma: sigma
    denoiser.predict = lambda noised, sigma, contexts, composition=(), observer=None: torch.zeros_like(noised)
    held = held_out_of(LATENTS, denoiser, RECIPE)
    losses = held_out_losses(held, denoiser, ToyPromptEncoder().encode("a photo"), (), batch_size)
    expected = denoiser.sigma_at(torch.tensor(PERCENTS)) * torch.stack(LATENTS.held_out).square().mean()
    torch.testing.assert_close(losses, expected)


def test_held_out_noise_is_the_same_every_time_and_differs_between_samples() -> None:
    one, again = (held_out_of(LATENTS, ToyDenoiser(), RECIPE).buckets[0] for _ in range(2))
    assert torch.equal(one.noised, again.noised)
    noise = (one.noised - one.x0) / one.sigma.view(-1, 1, 1, 1)
    assert len({round(float(sample.sum()), 4) for sample in noise}) == 12


@pytest.mark.parametrize(
    ("schedule", "pace"), [("constant", [0.5, 1, 1, 1, 1, 1]), ("cosine", [0.5, 1, 1, 0.854, 0.5, 0.146])]
)
def test_the_learning_rate_warms_up_and_then_follows_its_schedule(schedule: str, pace: list[float]) -> None:
    recipe = replace(RECIPE, schedule=schedule, warmup=1 / 3)
    assert [recipe.pace(step, 6) for step in range(6)] == pytest.approx(pace, abs=1e-3)


def test_stages_share_the_steps() -> None:
    stages = tuple(Stage((str(i),), 1.0, share) for i, share in enumerate((60, 100, 500)))
    assert replace(RECIPE, stages=stages, steps=66).stage_steps() == (6, 10, 50)
