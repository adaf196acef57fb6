"""Concept Dataset: pictures that were dropped, folders, connected images and masks, as ComfyUI calls it."""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from concept_loom.nodes.dataset import ConceptDatasetNode
from concept_loom.personalization.dataset import ConceptDataset
from concept_loom.personalization.pictures import PictureError
from PIL import Image

from nodes import LoadImage


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in ("input", "output", "temp"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    with torch.inference_mode():
        yield


def painted(name: str, seed: int = 0, kind: str = "input", size: tuple[int, int] = (32, 32)) -> Path:
    path = Path(str(folder_paths.get_directory_by_type(kind))) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(fields).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def made(**inputs: list) -> tuple[ConceptDataset, str, torch.Tensor]:
    dataset, report, preview = ConceptDatasetNode.execute(**{"folder": [""], **inputs}).result
    return dataset, report, preview


def names(dataset: ConceptDataset) -> list[str]:
    return sorted(picture.name for picture in dataset.pictures)


def test_dropped_pictures_are_found_with_either_separator_and_each_once() -> None:
    painted("set/a b.png", 1)
    painted("set/猫.png", 2)
    painted("drawn.png", 3, "output")
    dataset, *_ = made(pictures=["set/a b.png\r\nset\\猫.png\n\nset\\a b.png\ndrawn.png [output]"])
    assert names(dataset) == ["a b.png", "drawn.png", "猫.png"]


def test_a_folder_dropped_pictures_and_images_are_learned_together_and_captioned_in_this_order() -> None:
    painted("mine/z.png", 1)
    painted("dropped/a.png", 2)
    dataset, *_ = made(
        folder=["mine"], pictures=["dropped/a.png"], images=[torch.rand(1, 16, 24, 3)], captions=["one\ntwo\nthree"]
    )
    captions = {picture.name: picture.caption for picture in dataset.pictures}
    assert captions == {"z.png": "one", "a.png": "two", "image 1": "three"}


def test_a_connected_list_of_captions_has_one_for_each_picture() -> None:
    painted("mine/a.png", 1)
    painted("mine/b.png", 2)
    dataset, *_ = made(folder=["mine"], captions=["one\nthing", "two"])
    assert {picture.name: picture.caption for picture in dataset.pictures} == {"a.png": "one thing", "b.png": "two"}


def test_a_picture_that_is_missing_here_is_named_and_the_others_are_learned() -> None:
    painted("set/a.png")
    dataset, report, _ = made(pictures=["set/a.png\nset/gone.png"])
    assert names(dataset) == ["a.png"] and "gone.png is not there" in report


def test_an_empty_folder_is_named_beside_pictures_and_alone() -> None:
    painted("set/a.png")
    (Path(folder_paths.input_directory) / "void").mkdir()
    assert "The folder void holds no picture" in made(folder=["void"], pictures=["set/a.png"])[1]
    with pytest.raises(PictureError, match="The folder void holds no picture"):
        made(folder=["void"])


@pytest.mark.parametrize("entry", ["../secret.png", "set/../../secret.png", "/etc/secret.png", "..\\secret.png"])
def test_an_entry_that_leads_out_of_the_input_folder_is_refused(entry: str) -> None:
    with pytest.raises(PictureError, match="lies outside ComfyUI's input folder"):
        made(pictures=[entry])


def test_captions_are_not_shifted_by_a_file_that_cannot_be_read() -> None:
    painted("set/b.png")
    (Path(folder_paths.input_directory) / "set" / "a.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="by their order.*a.jpg"):
        made(folder=["set"], captions=["the first\nthe second"])


def test_the_preview_is_one_sheet_in_the_output_and_on_the_node() -> None:
    output = ConceptDatasetNode.execute(folder=["example"], holdout=["1"])
    dataset, _, sheet = output.result
    assert len(dataset.holdout) == 1 and sheet.shape == (1, 1024, 1536, 3)
    (shown,) = output.ui["images"]
    with Image.open(Path(folder_paths.temp_directory) / shown["subfolder"] / shown["filename"]) as image:
        assert image.size == (1536, 1024)


def test_the_fingerprint_follows_dropped_files_and_their_captions() -> None:
    def fingerprint(listed: str | None = "set/a.png") -> list:
        return ConceptDatasetNode.fingerprint_inputs(folder=[""], pictures=[listed])

    assert fingerprint(None) == [] == fingerprint()
    seen = []
    for change in (lambda: painted("set/a.png"), lambda: painted("set/a.png", size=(40, 40))):
        change()
        seen.append(fingerprint())
    (Path(folder_paths.input_directory) / "set" / "a.txt").write_text("a mug")
    seen.append(fingerprint())
    assert all(one != other for one, other in zip(seen, seen[1:], strict=False))


def test_a_transparent_frame_is_named_and_the_others_are_learned() -> None:
    images = torch.rand(3, 16, 16, 4)
    images[1, ..., 3] = 0
    dataset, report, _ = made(images=[images])
    assert names(dataset) == ["image 1", "image 3"] and "image 2 is completely transparent" in report
    with pytest.raises(PictureError, match=r"No picture could be read.* image 1 is completely transparent"):
        made(images=[images[1:2]])


@pytest.mark.parametrize("shape", [(16, 24), (1, 16, 24), (1, 1, 16, 24)])
def test_a_mask_is_taken_in_every_shape_that_packs_give_it(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(16, 24)
    mask[4:12, 6:18] = 1
    dataset, *_ = made(images=[torch.rand(1, 16, 24, 3)], masks=[mask.reshape(shape)])
    kept = dataset.pictures[0].mask
    assert kept is not None and torch.equal(kept, (255 * mask).byte())


def loaded_by_the_core(alpha: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = np.random.default_rng(0).integers(0, 255, (*alpha.shape, 3), dtype=np.uint8)
    path = painted("cut.png")
    Image.fromarray(np.dstack((pixels, alpha))).save(path)
    image, mask, *_ = LoadImage().load_image("cut.png")
    return image, mask


def test_load_images_mask_of_an_opaque_picture_counts_as_none() -> None:
    image, mask = loaded_by_the_core(np.full((32, 32), 255, np.uint8))
    dataset, *_ = made(images=[image], masks=[mask])
    assert dataset.pictures[0].mask is None


def test_a_subject_painted_in_the_mask_editor_is_the_subject() -> None:
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[8:24, 8:24] = 0  # the mask editor makes what was painted transparent
    image, mask = loaded_by_the_core(alpha)
    dataset, report, _ = made(images=[image], masks=[mask])
    kept = dataset.pictures[0].mask
    assert kept is not None and kept[16, 16] == 255 and kept[0, 0] == 0 and "Invert Mask" not in report


def test_load_images_mask_of_a_cut_out_is_pointed_out_and_right_once_inverted() -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[8:24, 8:24] = 255
    image, mask = loaded_by_the_core(alpha)
    assert "put Invert Mask after it" in made(images=[image], masks=[mask])[1]
    dropped, *_ = made(pictures=["cut.png"])
    inverted, report, _ = made(images=[image], masks=[1 - mask])
    assert "Invert Mask" not in report
    assert torch.equal(dropped.pictures[0].mask, inverted.pictures[0].mask)  # pyright: ignore[reportArgumentType]
