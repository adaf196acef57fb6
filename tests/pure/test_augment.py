"""Seeded, gentle views of the pictures, and the latents that the denoiser trains on."""

import pytest
import torch
from concept_loom.personalization.augment import Augmentation, mirrored, training_latents, views_of
from concept_loom.personalization.dataset import View, dataset_of, view
from concept_loom.personalization.pictures import Picture, PictureError, picture_from
from torch import Tensor

SIDE = 64


def picture(seed: int = 0, height: int = 96, width: int = 128) -> Picture:
    """Never black, so that black corners can be told."""
    pixels = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.5
    return picture_from(str(seed), pixels)


def encode(pictures: Tensor) -> Tensor:
    """A stand-in for the VAE: 8 x 8 means."""
    return torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8)


def some_views(seed: int, augmentation: Augmentation) -> list[View]:
    return views_of(picture(), SIDE, augmentation, torch.Generator().manual_seed(seed))


def test_the_first_view_is_plain_and_the_others_are_not() -> None:
    plain, *jittered = some_views(0, Augmentation(views=4))
    assert torch.equal(plain.pixels, view(picture(), (SIDE, SIDE)).pixels)
    assert not any(torch.equal(plain.pixels, other.pixels) for other in jittered)


def test_the_same_seed_gives_the_same_views_and_another_seed_others() -> None:
    one, again, other = (some_views(seed, Augmentation(views=3))[2].pixels for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_no_view_has_black_corners() -> None:
    assert all(one.pixels.min() > 0.3 for one in some_views(0, Augmentation(views=20, zoom=0.5)))


def test_pictures_are_mirrored_only_when_asked() -> None:
    plain = view(picture(), (SIDE, SIDE)).pixels
    never = some_views(0, Augmentation(views=20, zoom=0.0))
    always = some_views(0, Augmentation(views=20, zoom=0.0, flip=1.0))
    assert all(torch.equal(one.pixels, plain) for one in never)
    assert all(torch.equal(one.pixels, plain.flip(1)) for one in always[1:])


def test_a_mask_is_mirrored_with_its_picture() -> None:
    mask = torch.zeros(8, 8)
    mask[:, 0] = 1
    assert mirrored(View(torch.zeros(8, 8, 3), mask)).mask[:, -1].all()


def test_zoom_never_goes_below_the_training_size() -> None:
    exact = picture_from("exact", picture().pixels[:64, :64])
    views = views_of(exact, SIDE, Augmentation(views=5, zoom=0.5), torch.Generator().manual_seed(0))
    assert all(torch.equal(one.pixels, views[0].pixels) for one in views)


def test_latents_captions_and_masks_are_aligned_and_the_held_out_are_apart() -> None:
    mask = torch.zeros(96, 128)
    mask[:48] = 1
    pictures = [picture_from(str(i), picture(i).pixels, mask if i else None, f"picture {i}") for i in range(5)]
    dataset = dataset_of(pictures, 1)
    latents = training_latents(dataset, SIDE, Augmentation(views=3), seed=0, encode=encode)
    assert [one.shape for one in latents.train] == 12 * [(3, 8, 8)] and [one.shape for one in latents.held_out] == [
        (3, 8, 8)
    ]
    assert latents.captions == tuple(p.caption for p in dataset.training for _ in range(3))
    assert {one.shape for one in (*latents.masks, *latents.held_masks)} == {
        (1, 8, 8)
    } and latents.data_hash == dataset.hash
    for caption, shown in zip(latents.captions, latents.masks, strict=True):
        assert (shown.min() == 1) == (caption == "picture 0")


def test_nan_from_the_vae_is_refused() -> None:
    with pytest.raises(PictureError, match="fp32-vae"):
        training_latents(dataset_of([picture()]), SIDE, Augmentation(), 0, lambda pixels: encode(pixels) * torch.nan)
