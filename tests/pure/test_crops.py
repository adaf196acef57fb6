"""Things cut out of pictures by their masks."""

import torch
from concept_loom.personalization.crops import GREY, cut_out, square_around, surroundings


def test_the_thing_fills_the_cut_and_its_surroundings_are_gone() -> None:
    picture, mask = torch.zeros(1, 32, 32, 3), torch.zeros(1, 1, 32, 32)
    picture[:, 4:12, 16:24] = 1.0
    mask[:, :, 4:12, 16:24] = 1.0
    cut = cut_out(picture, mask)
    assert cut.shape == (1, 32, 32, 3) and torch.allclose(cut, torch.ones_like(cut))
    flat = cut_out(picture, torch.nn.functional.pad(mask[:, :, 4:12, 16:24], (8, 16, 4, 20)))  # beside the thing
    assert torch.allclose(flat, torch.zeros_like(flat))


def test_what_a_mask_leaves_out_of_its_square_is_grey() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 2:10, 4:6] = 1
    cut = cut_out(torch.zeros(1, 16, 16, 3), mask)
    assert (cut - GREY).abs().min() < 1e-4 and cut.min() < 0.2


def test_of_its_surroundings_nothing_changes_and_the_thing_is_grey() -> None:
    pictures, mask = torch.rand(2, 16, 16, 3), torch.zeros(2, 1, 16, 16)
    mask[0, :, 2:10, 4:6] = 1
    left = surroundings(pictures, mask)
    assert (left[0, 2:10, 4:6] == GREY).all() and torch.equal(left[1], pictures[1])
    assert torch.equal(left[0, 10:], pictures[0, 10:]) and torch.equal(left[0, :, 6:], pictures[0, :, 6:])


def test_the_square_stays_inside_the_picture() -> None:
    for rows, columns in ((slice(0, 9), slice(0, 3)), (slice(7, 16), slice(14, 16)), (slice(0, 16), slice(5, 6))):
        mask = torch.zeros(16, 20)
        mask[rows, columns] = 1
        box = square_around(mask)
        assert box.height == box.width == rows.stop - rows.start
        assert 0 <= box.top <= rows.start and box.top + box.height >= rows.stop and box.top + box.height <= 16
        assert 0 <= box.left <= columns.start and columns.stop <= box.left + box.width <= 20


def test_a_picture_without_a_thing_stays_whole() -> None:
    picture = torch.rand(1, 16, 16, 3)
    assert torch.allclose(cut_out(picture, torch.zeros(1, 1, 2, 2)), picture, atol=1e-5)
