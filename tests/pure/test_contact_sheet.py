"""The contact sheet shows what is learned from: each crop, its mask, and which pictures are held out."""

from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.buckets import bucket
from concept_loom.personalization.contact_sheet import HELD_OUT, SHEET, contact_sheet, masks_sheet
from concept_loom.personalization.dataset import dataset_of, view
from concept_loom.personalization.latents import training_latents
from concept_loom.personalization.pictures import Picture, picture_from


def plain(name: str, grey: float, mask: torch.Tensor | None = None) -> Picture:
    return picture_from(name, torch.full((64, 96, 3), grey), mask)


def test_one_picture_is_its_own_crop() -> None:
    wide = picture_from("wide", torch.rand(512, 1024, 3, generator=torch.Generator().manual_seed(0)))
    sheet = contact_sheet(dataset_of([wide]))[0]
    height, width = bucket(wide.size, 512)
    height = round(512 * height / width / 8) * 8
    top = (512 - height) // 2
    assert torch.equal(sheet[top : top + height], view(wide, (height, 512)).pixels)
    assert not sheet[:top].any() and not sheet[top + height :].any()


def test_what_the_mask_leaves_out_is_shaded_and_the_rest_is_not() -> None:
    mask = torch.zeros(64, 96)
    mask[:, 40:] = 1
    sheet = contact_sheet(dataset_of([plain("masked", 0.5, mask)]))[0]
    assert sheet[256, 400].tolist() == pytest.approx([0.5] * 3, abs=0.01)
    red, green, _ = sheet[256, 4].tolist()
    assert red > 0.6 > 0.4 > green


def test_held_out_pictures_come_last_in_a_frame() -> None:
    dataset = dataset_of([plain(f"{i}.png", i / 10) for i in range(1, 6)], holdout=2)
    sheet = contact_sheet(dataset)[0]
    side = sheet.shape[1] // 3
    corners = [sheet[side * (i // 3), side * (i % 3)] for i in range(6)]
    framed = [(corner * 255).round().int().tolist() == list(HELD_OUT) for corner in corners]
    assert framed == [False, False, False, True, True, False]
    assert [corner[0].item() for corner in corners[:3]] == pytest.approx(
        sorted(picture.pixels[0, 0, 0].item() / 255 for picture in dataset.training)
    )


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (10, 4, 3), (200, 15, 14)])
def test_any_number_of_pictures_fits_on_the_sheet(count: int, columns: int, rows: int) -> None:
    shape = contact_sheet(dataset_of([plain(f"{i}", i / count) for i in range(count)])).shape
    assert shape[2] <= SHEET and shape[1] * columns == shape[2] * rows


def test_the_masks_that_learning_uses_are_shown_on_their_own_pictures() -> None:
    dataset = dataset_of([plain(f"{i}.png", i / 10) for i in range(1, 6)], holdout=1)
    latents = training_latents(dataset, 64, lambda one: torch.zeros(len(one), 4, 8, 8))
    assert torch.equal(masks_sheet(dataset, latents), contact_sheet(dataset))
    own = list(latents.masks)
    own[1] = torch.zeros(1, 8, 8)
    left_out = masks_sheet(dataset, replace(latents, masks=tuple(own)))
    names = sorted(picture.name for picture in dataset.training)
    row, column = divmod(names.index(dataset.training[1].name), 3)
    side = left_out.shape[2] // 3
    changed = (left_out != contact_sheet(dataset)).any(-1)[0]
    assert changed[row * side : (row + 1) * side, column * side : (column + 1) * side].all()
    assert int(changed.sum()) == side * side
