"""The latents that the denoiser trains on."""

import pytest
import torch
from concept_loom.personalization.dataset import dataset_of
from concept_loom.personalization.latents import training_latents
from concept_loom.personalization.pictures import Picture, PictureError, picture_from
from torch import Tensor

SIDE = 64


def picture(seed: int = 0, height: int = 96, width: int = 128) -> Picture:
    return picture_from(str(seed), torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)))


def encode(pictures: Tensor) -> Tensor:
    """A stand-in for the VAE: 8 x 8 means."""
    return torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 8)


def test_latents_captions_and_masks_are_aligned_and_the_held_out_are_apart() -> None:
    mask = torch.zeros(96, 128)
    mask[:48] = 1
    pictures = [picture_from(str(i), picture(i).pixels, mask if i else None, f"picture {i}") for i in range(5)]
    dataset = dataset_of(pictures, 1)
    latents = training_latents(dataset, SIDE, encode)
    assert [one.shape for one in latents.train] == 4 * [(3, 8, 8)] and [one.shape for one in latents.held_out] == [
        (3, 8, 8)
    ]
    assert latents.captions == tuple(picture.caption for picture in dataset.training)
    assert {one.shape for one in (*latents.masks, *latents.held_masks)} == {
        (1, 8, 8)
    } and latents.data_hash == dataset.uncaptioned.hash != dataset.hash
    for caption, shown in zip(latents.captions, latents.masks, strict=True):
        assert (shown.min() == 1) == (caption == "picture 0")


def test_nan_from_the_vae_is_refused() -> None:
    with pytest.raises(PictureError, match="fp32-vae"):
        training_latents(dataset_of([picture()]), SIDE, lambda pixels: encode(pixels) * torch.nan)
