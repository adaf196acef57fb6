"""Aspect-ratio buckets: pictures keep their shape, batches hold one shape, and every score is taken of all."""

import pytest
import torch
from concept_loom.personalization.batch import draw
from concept_loom.personalization.buckets import LONGEST, STEP, bucket
from concept_loom.personalization.dataset import dataset_of, fitting_box
from concept_loom.personalization.evaluation import PERCENTS, held_out_losses, held_out_of
from concept_loom.personalization.latents import TrainingLatents, training_latents
from concept_loom.personalization.learner import rehearsals
from concept_loom.personalization.pictures import picture_from
from concept_loom.personalization.recipe import Recipe, Stage

from .test_latents import encode
from .test_learner import task
from .toy import ToyDenoiser, ToyPromptEncoder, toy_latents

ROWS = Recipe("quick", (Stage(("context_rows.",), 1e-2),), steps=10, batch_size=3)
SHAPES = ((64, 64), (80, 48), (48, 80), (640, 360), (3024, 4032), (4032, 3024), (1080, 1920), (900, 2000), (300, 1000))


def every(side):
    """All sizes that a model trained at `side` may meet."""
    sides = range(STEP, int(LONGEST * side) + 1, STEP)
    sizes = ((height, width) for height in sides for width in sides)
    return [(h, w) for h, w in sizes if h * w <= side * side and max(h, w) <= LONGEST * min(h, w)]


@pytest.mark.parametrize("side", [64, 512, 768, 1024])
@pytest.mark.parametrize("shape", SHAPES)
def test_none_that_fits_the_model_and_the_picture_is_both_larger_and_nearer_in_shape(side, shape):
    found = bucket(shape, side)
    assert found in every(side)
    fits = [one for one in every(side) if all(edge <= max(STEP, its) for edge, its in zip(one, shape, strict=True))]
    assert found in fits

    def off(one):
        return max(one[0] * shape[1], one[1] * shape[0]) / min(one[0] * shape[1], one[1] * shape[0])

    assert not any(one[0] >= found[0] and one[1] >= found[1] and one != found for one in fits)
    whole = [one for one in fits if not any(o[0] >= one[0] and o[1] >= one[1] and o != one for o in fits)]
    assert off(found) == min(map(off, whole))


@pytest.mark.parametrize("shape", [(512, 512), (700, 300), (3024, 4032), (300, 300)])
def test_nothing_is_enlarged(shape):
    size = bucket(shape, 512)
    box = fitting_box(picture_from("", torch.rand(*shape, 3)), size)
    assert box.height >= size[0] and box.width >= size[1]


def mixed():
    """Latents of two tall pictures and a square one, one of each held out."""
    sizes = [(128, 64), (64, 64), (192, 96), (128, 64), (64, 64)]
    pictures = [
        picture_from(str(i), torch.rand(*size, 3, generator=torch.Generator().manual_seed(i)))
        for i, size in enumerate(sizes)
    ]
    return training_latents(dataset_of(pictures, 2), 96, encode)


def shaped(*latents, held_out=()):
    def masks(group):
        return tuple(torch.ones(1, *one.shape[1:]) for one in group)

    return TrainingLatents(latents, masks(latents), ("",) * len(latents), tuple(held_out), masks(held_out))


def two_shapes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, *size, generator=generator) for size in ((4, 4), (8, 4), (4, 4), (8, 4), (4, 4))]


def test_pictures_keep_their_shape_and_their_masks_have_it_too():
    latents = mixed()
    assert len({one.shape for one in (*latents.train, *latents.held_out)}) == 2
    for one, mask in zip((*latents.train, *latents.held_out), (*latents.masks, *latents.held_masks), strict=True):
        assert mask.shape == (1, *one.shape[1:])


def test_a_batch_is_of_one_shape_and_each_picture_comes_as_often():
    latents, counts = shaped(*two_shapes()), torch.zeros(5)
    texts, generator = tuple((str(i),) for i in range(5)), torch.Generator().manual_seed(0)
    for _ in range(600):
        batch = draw(latents, ROWS, texts, generator)
        assert batch.x0.shape[2:] == batch.mask.shape[2:] == batch.noise.shape[2:]
        for x0, text in zip(batch.x0, batch.texts, strict=True):
            assert torch.equal(x0, latents.train[int(text)])
            counts[int(text)] += 1
    assert (counts / counts.mean() - 1).abs().max() < 0.15


def test_one_shape_draws_what_it_drew_before_there_were_buckets():
    latents, generator = toy_latents(), torch.Generator().manual_seed(5)
    batch = draw(latents, ROWS, (("",),) * 5, torch.Generator().manual_seed(5))
    chosen = torch.randperm(5, generator=generator)[:3]
    assert torch.equal(batch.x0, torch.stack(latents.train)[chosen])


def test_held_out_losses_are_the_mean_over_pictures_of_all_shapes():
    denoiser = ToyDenoiser()
    denoiser.predict = lambda noised, sigma, contexts, composition=(), observer=None: torch.zeros_like(noised)
    denoiser.loss_weight = lambda sigma: torch.ones_like(sigma)
    one, other, *_ = two_shapes()
    held = held_out_of(shaped(one, held_out=(one, other)), denoiser, ROWS)
    losses = held_out_losses(held, denoiser, ToyPromptEncoder().encode("a photo"), (), 3)
    expected = (one.square().mean() + other.square().mean()) / 2
    torch.testing.assert_close(losses, expected.expand(len(PERCENTS)))


def test_memory_is_foretold_on_the_largest():
    latents = shaped(*two_shapes())
    assert [one.shape for one in latents.largest.train] == [(4, 8, 4)]
    seen, rehearsed = [], task(latents=latents)
    rehearsed.denoiser.predict = lambda noised, *_: seen.append(noised.shape) or noised.clone().requires_grad_()
    for rehearse in rehearsals(rehearsed):
        rehearse()
    assert seen == [(1, 4, 8, 4)]
