"""Pictures as people have them: reading, splitting, hashing, cropping, and the doctor's findings."""

import errno
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from concept_loom.personalization.dataset import dataset_of, fitting_box, twins_of, view
from concept_loom.personalization.doctor import examine
from concept_loom.personalization.pictures import Picture, PictureError, picture_from, read_picture, read_pictures
from PIL import Image, ImageCms, ImageFilter
from torch import Tensor


def noise(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Blocks of random colours: sharp edges, and no two seeds alike, also not in where their edges are."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8).permute(2, 0, 1)
    image = torch.nn.functional.interpolate(blocks[None].float(), (height, width))[0].permute(1, 2, 0).byte()
    return image.roll((3 * seed, 5 * seed), (0, 1))


def some(count: int) -> list[Picture]:
    return [picture_from(f"{i}.png", noise(seed=i)) for i in range(count)]


def saved(folder: Path, name: str, image: Image.Image, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


# -- reading


def test_exif_rotation_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(noise(40, 64).numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to see it upright
    picture = read_picture(saved(tmp_path, "turned.png", image, exif=exif))
    assert picture.size == (64, 40)
    assert torch.equal(picture.pixels, noise(40, 64).rot90(-1, (0, 1)))


def test_alpha_becomes_a_mask_over_white(tmp_path: Path) -> None:
    pixels = torch.cat((noise(), torch.full((64, 64, 1), 255, dtype=torch.uint8)), -1)
    pixels[:, :32, 3] = 0
    picture = read_picture(saved(tmp_path, "cut.png", Image.fromarray(pixels.numpy())))
    assert (picture.pixels[:, :32] == 255).all() and torch.equal(picture.pixels[:, 32:], noise()[:, 32:])
    assert (picture.mask[:, :32] == 0).all() and (picture.mask[:, 32:] == 255).all()


def test_an_opaque_alpha_is_no_mask(tmp_path: Path) -> None:
    image = Image.fromarray(noise().numpy()).convert("RGBA")
    assert read_picture(saved(tmp_path, "opaque.png", image)).mask is None


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGB"])
def test_every_mode_becomes_rgb_and_stays_alike(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(noise().numpy()).convert("L")
    suffix = "tif" if mode == "CMYK" else "png"
    picture = read_picture(saved(tmp_path, f"picture.{suffix}", grey.convert(mode)))
    assert picture.pixels.shape == (64, 64, 3) and picture.pixels.dtype == torch.uint8
    if mode != "1":
        assert (picture.pixels[..., 0].int() - torch.from_numpy(np.array(grey)).int()).abs().max() <= 3


def test_sixteen_bits_keep_their_greys(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    picture = read_picture(saved(tmp_path, "deep.png", Image.fromarray(ramp)))
    assert picture.pixels[..., 0].float().mean().item() == pytest.approx(127.5, abs=1)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    picture = read_picture(saved(tmp_path, "moves.gif", red, save_all=True, append_images=[blue]))
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]


def test_a_text_file_beside_a_picture_is_its_caption(tmp_path: Path) -> None:
    saved(tmp_path, "mug.png", Image.fromarray(noise().numpy()))
    (tmp_path / "mug.txt").write_text("a mug\non a table\n")
    assert read_pictures(tmp_path)[0][0].caption == "a mug on a table"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_caption_is_read_in_each_encoding_of_an_editor_and_without_its_mark(tmp_path: Path, encoding: str) -> None:
    saved(tmp_path, "mug.png", Image.fromarray(noise().numpy()))
    (tmp_path / "mug.txt").write_text("un café", encoding)
    assert read_pictures(tmp_path)[0][0].caption == "un café"


def test_a_picture_whose_caption_is_in_another_encoding_is_left_out_and_told(tmp_path: Path) -> None:
    for name in ("cup.png", "mug.png"):
        saved(tmp_path, name, Image.fromarray(noise().numpy()))
    (tmp_path / "mug.txt").write_text("un café", "cp1252")
    (picture,), (told,) = read_pictures(tmp_path)
    assert picture.name == "cup.png"
    assert told.startswith("mug.png was left out") and "mug.txt" in told and "UTF-8 is needed. Save it" in told


def test_bad_files_never_stop_the_rest_and_are_named(tmp_path: Path) -> None:
    good = saved(tmp_path, "good.png", Image.fromarray(noise().numpy()))
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "camera.nef").write_bytes(b"MM")
    (tmp_path / "empty.webp").write_bytes(b"")
    saved(tmp_path, "clear.png", Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    (tmp_path / "notes.md").write_text("ignored")
    pictures, unread = read_pictures(tmp_path)
    assert [picture.name for picture in pictures] == ["good.png"]
    bad = ["camera.nef", "clear.png", "empty.webp", "half.png", "phone.heic", "text.jpg"]
    assert [sentence.split()[0] for sentence in unread] == bad
    assert "JPEG" in next(sentence for sentence in unread if "heic" in sentence)
    assert dataset_of(pictures, unread=unread).report()[-6:] == unread


def test_files_that_may_not_be_read_never_stop_the_rest_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good.png", "locked.png", "mug.png"):
        saved(tmp_path, name, Image.fromarray(noise().numpy()))
    (tmp_path / "mug.txt").write_text("a mug")
    opened = Path.open

    def refusing(path: Path, *args: Any, **options: Any) -> Any:  # root, as whom tests may run, is refused nothing
        if path.name in ("locked.png", "mug.txt"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refusing)
    (picture,), unread = read_pictures(tmp_path)
    assert picture.name == "good.png" and [told.split()[0] for told in unread] == ["locked.png", "mug.png"]
    assert all("Permission denied" in told for told in unread) and "mug.txt cannot be read" in unread[1]


def test_a_heic_file_is_known_by_its_content_and_read_where_pillow_heif_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = tmp_path / "renamed.jpg"
    renamed.write_bytes(b"\0\0\0\x18ftypheic")
    with monkeypatch.context() as without, pytest.raises(PictureError, match="renamed.jpg is a HEIC.*Save it as JPEG"):
        without.setitem(sys.modules, "pillow_heif", None)
        read_picture(renamed)
    heif = pytest.importorskip("pillow_heif")
    image, exif = Image.fromarray(noise(40, 64).numpy()), Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(image).save(renamed, exif=exif.tobytes(), quality=-1)
    picture = read_picture(renamed)
    assert picture.size == (64, 40)
    assert (
        picture.pixels.float() - noise(40, 64).rot90(-1, (0, 1)).float()
    ).abs().mean() < 10  # HEIC keeps colours at half size


def test_a_picture_too_large_to_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "huge.png", Image.new("RGB", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match="huge.png has more pixels"):
        read_picture(tmp_path / "huge.png")


def test_a_photograph_keeps_what_training_needs_and_no_more(tmp_path: Path) -> None:
    picture = read_picture(saved(tmp_path, "photo.jpg", Image.new("RGB", (4000, 3000), "red")))
    assert picture.size == (1500, 2000)


def test_a_profile_is_honoured_also_beside_transparency(tmp_path: Path) -> None:
    inked = Image.new("RGBA", (16, 16), (120, 130, 140, 255))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = bytearray(lab.tobytes())  # red and blue exchanged: plain conversion would show it
    at = {
        swapped[132 + 12 * i : 136 + 12 * i].decode(): 132 + 12 * i
        for i in range(int.from_bytes(swapped[128:132], "big"))
    }
    swapped[at["rXYZ"] : at["rXYZ"] + 4], swapped[at["bXYZ"] : at["bXYZ"] + 4] = b"bXYZ", b"rXYZ"
    seen = read_picture(saved(tmp_path, "screen.png", inked, icc_profile=bytes(swapped))).pixels[0, 0].tolist()
    assert seen == pytest.approx([140, 130, 120], abs=2)


@pytest.mark.parametrize("name", ["猫 の 写真.png", "a b (1).JPG", "Müller's.webp"])
def test_names_may_hold_anything(tmp_path: Path, name: str) -> None:
    saved(tmp_path, name, Image.fromarray(noise().numpy()))
    (picture,), unread = read_pictures(tmp_path)
    assert picture.name == name and not unread


def test_a_missing_file_of_a_list_is_named(tmp_path: Path) -> None:
    pictures, unread = read_pictures([tmp_path / "gone.png"])
    assert not pictures and "gone.png is not there" in unread[0]


def test_an_empty_folder_is_refused_with_what_was_wrong_in_it(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(PictureError, match="No picture could be read.*text.jpg"):
        dataset_of(*read_pictures(tmp_path)[:1], unread=read_pictures(tmp_path)[1])
    with pytest.raises(PictureError, match="no folder"):
        read_pictures(tmp_path / "missing")


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(PictureError, match="mask of mug is"):
        picture_from("mug", noise(), torch.ones(8, 8))


# -- split and hash


@pytest.mark.parametrize(("count", "held"), [(1, 0), (3, 0), (7, 0), (8, 2), (20, 2)])
def test_two_pictures_are_held_out_from_eight_on(count: int, held: int) -> None:
    dataset = dataset_of(some(count))
    assert len(dataset.holdout) == held and len(dataset.training) == count - held
    said = " ".join(dataset.report())
    assert ("cannot be judged" not in said) == bool(held)
    assert ("1 pictures" in said, "holdout 1" in said) == (False, 1 < count < 8)


def test_the_split_depends_on_the_pictures_not_on_their_order_or_names() -> None:
    pictures = some(8)
    renamed = [replace(picture, name=f"new {i}") for i, picture in enumerate(reversed(pictures))]
    one, other = dataset_of(pictures), dataset_of(renamed)
    assert [p.hash for p in one.holdout] == [p.hash for p in other.holdout]
    assert one.hash == other.hash


def test_a_caption_or_a_mask_moves_no_picture_to_the_other_side() -> None:
    pictures = some(8)
    held = {picture.name for picture in dataset_of(pictures).holdout}
    for number in range(8):
        told = [replace(p, caption=f"{number} {p.name}", mask=torch.ones(p.size).byte()) for p in pictures]
        assert {picture.name for picture in dataset_of(told).holdout} == held


def test_a_near_duplicate_is_not_held_out_while_others_can_be() -> None:
    for seed in range(5):
        originals = [picture_from(str(i), noise(seed=10 * seed + i)) for i in range(4)]
        copies = [replace(p, pixels=(p.pixels.int() - 3).clamp(0).byte()) for p in originals[:3]]
        assert dataset_of([*originals, *copies], 1).holdout == (originals[3],)


def test_a_number_holds_out_as_many_and_leaves_one() -> None:
    assert len(dataset_of(some(5), 3).holdout) == 3
    assert len(dataset_of(some(5), 0).holdout) == 0
    with pytest.raises(PictureError, match="5 pictures are to be held out of 5"):
        dataset_of(some(5), 5)


def test_the_hash_follows_pixels_masks_captions_and_split() -> None:
    first, *rest = some(5)
    pixels = first.pixels.clone()
    pixels[3, 3, 0] ^= 1
    mask = torch.full((64, 64), 255, dtype=torch.uint8)
    hashes = {dataset_of([first, *rest]).hash, dataset_of([first, *rest], 2).hash}
    for changed in (replace(first, pixels=pixels), replace(first, mask=mask), replace(first, caption="a mug")):
        hashes.add(dataset_of([changed, *rest]).hash)
    assert len(hashes) == 5


# -- cropping


def test_the_crop_is_the_largest_one_in_the_middle() -> None:
    assert tuple(fitting_box(picture_from("wide", noise(64, 128)), (32, 32))) == (0, 32, 64, 64)
    assert tuple(fitting_box(picture_from("tall", noise(96, 64)), (64, 64))) == (16, 0, 64, 64)


def test_the_crop_follows_the_mask_to_the_edge() -> None:
    mask = torch.zeros(64, 128)
    mask[10:20, 100:120] = 1
    assert tuple(fitting_box(picture_from("right", noise(64, 128), mask), (32, 32))) == (0, 64, 64, 64)


def test_a_view_has_the_training_size_and_shows_the_crop() -> None:
    shown = view(picture_from("wide", noise(64, 128)), (64, 64))
    assert shown.pixels.shape == (64, 64, 3) and shown.mask is None
    assert torch.equal((shown.pixels * 255).round().byte(), noise(64, 128)[:, 32:96])


def test_a_size_that_latents_cannot_have_is_refused() -> None:
    with pytest.raises(PictureError, match="65 x 64 is not divisible by 8"):
        view(some(1)[0], (64, 65))


# -- the doctor


def findings(pictures: list[Picture], side: int = 64) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.pictures for finding in examine(dataset_of(pictures), side)}


def test_sound_pictures_have_no_findings() -> None:
    assert findings(some(5)) == {}


def test_the_doctor_names_what_is_wrong() -> None:
    sharp = some(4)
    copy = replace(sharp[0], name="copy.jpg", pixels=(sharp[0].pixels.int() + 2).clamp(0, 255).byte())
    tiny = picture_from("tiny", noise(24, 24, 20))
    strip = picture_from("strip", noise(64, 640, 21))
    soft = Image.fromarray(noise(256, 256, 22).numpy()).filter(ImageFilter.GaussianBlur(12))
    blurred = picture_from("soft", torch.from_numpy(np.array(soft)))
    found = findings([*sharp, copy, tiny, strip, blurred])
    assert set(found["near-duplicates"]) == {"0.png", "copy.jpg"}
    assert (found["tiny"], found["cut"], found["blur"]) == (("tiny",), ("strip",), ("soft",))
    assert set(findings(some(2))) == {"few"}


def test_one_background_in_all_pictures_is_named_and_masks_excuse_it() -> None:
    room, mugs = noise(64, 64, 50), [noise(24, 24, seed) for seed in range(4)]
    here = [room.clone() for _ in mugs]
    for pixels, mug in zip(here, mugs, strict=True):
        pixels[20:44, 20:44] = mug
    pictures = [picture_from(f"{i}.png", pixels) for i, pixels in enumerate(here)]
    assert len(findings(pictures)["background"]) == 4
    mask = torch.zeros(64, 64)
    mask[20:44, 20:44] = 1
    assert "background" not in findings([picture_from(one.name, one.pixels, mask) for one in pictures])


def test_a_mask_that_is_white_around_the_subject_is_named() -> None:
    subject = torch.zeros(64, 64)
    subject[16:48, 20:44] = 1
    full, close = torch.ones(64, 64), torch.ones(64, 64)
    close[:8] = 0
    masks = {"cutout": 1 - subject, "painted": subject, "full": full, "close": close}
    pictures = [picture_from(name, noise(64, 64, i), mask) for i, (name, mask) in enumerate(masks.items())]
    assert findings(pictures) == {"mask": ("cutout",)}


def test_other_pictures_are_no_twins() -> None:
    assert twins_of(some(12)) == []
