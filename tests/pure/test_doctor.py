"""The doctor on pictures of the playground's world, with a fault and without it, and the set's score."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from concept_loom.personalization.dataset import ConceptDataset, dataset_of, twins_of
from concept_loom.personalization.doctor import COSTS, examine, health
from concept_loom.personalization.finding import Finding
from concept_loom.personalization.pictures import Picture
from concept_loom.playground.world import CLASSES, Scene, draw_instance, draw_scene, render
from PIL import Image, ImageDraw, ImageFont

SIDE = 64
SEEDS = range(12)


def scenes(seed: int, count: int = 5) -> list[Scene]:
    """One thing in different places, drawn sharp and seen as photographs are."""
    rng = np.random.default_rng(seed)
    instance = draw_instance(rng, CLASSES[seed % len(CLASSES)])
    return [draw_scene(rng, subject=instance, second="none", style="photo") for _ in range(count)]


def pictures(shown: list[Scene], masked: bool = False) -> list[Picture]:
    made = [render(scene) for scene in shown]
    return [
        Picture(
            f"{i}.png",
            torch.from_numpy(one.image),
            torch.from_numpy(one.mask.astype(np.uint8) * 255) if masked else None,
        )
        for i, one in enumerate(made)
    ]


def in_one_pose(seed: int, count: int = 5) -> list[Scene]:
    free = scenes(seed, count)
    return [replace(scene, subject=free[0].subject) for scene in free]


def lettered(picture: Picture) -> Picture:
    image = Image.fromarray(picture.pixels.numpy())
    draw = ImageDraw.Draw(image)
    draw.rectangle((30, 53, 63, 63), fill="black")
    draw.text((32, 53), "STOCK", "white", ImageFont.load_default(9))
    return replace(picture, pixels=torch.from_numpy(np.array(image)))


def kinds(shown: list[Picture]) -> dict[str, tuple[str, ...]]:
    return {one.kind: one.pictures for one in examine(dataset_of(shown), SIDE)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_thing_in_different_places_has_no_repeated_lines(seed: int, masked: bool) -> None:
    assert not {"pose", "watermark", "turned", "small"} & set(kinds(pictures(scenes(seed), masked)))


@pytest.mark.parametrize("seed", SEEDS)
def test_one_pose_in_front_of_different_places_is_named_with_masks_and_without(seed: int) -> None:
    for masked in (False, True):
        assert len(kinds(pictures(in_one_pose(seed), masked))["pose"]) >= 4  # of near-duplicates one
    one_mask = [*pictures(in_one_pose(seed), True)[:1], *pictures(in_one_pose(seed), False)[1:]]
    assert len(kinds(one_mask)["pose"]) >= 4


@pytest.mark.parametrize("seed", SEEDS)
def test_lettering_at_the_same_place_of_all_pictures_is_named_and_not_when_one_lacks_it(seed: int) -> None:
    clean = pictures(scenes(seed))
    marked = [lettered(one) for one in clean]
    assert len(kinds(marked)["watermark"]) == 5
    assert "watermark" not in kinds([*marked[:4], clean[4]])


def in_one_place(seed: int) -> list[Scene]:
    free = scenes(seed)
    place = {name: getattr(free[0], name) for name in ("background", "background_seed", "light", "style", "style_seed")}
    return [replace(scene, **place, companion=None) for scene in free]


def before_a_backdrop(shown: list[Scene]) -> list[Picture]:
    """Under a sensor's noise, or one pose would be near-duplicates."""
    generator = torch.Generator().manual_seed(0)

    def cut(one: Picture) -> Picture:
        pixels = torch.where(one.mask[..., None] > 127, one.pixels, 200)
        noise = torch.randint(-4, 5, pixels.shape, generator=generator)
        return replace(one, pixels=(pixels + noise).clamp(0, 255).to(torch.uint8), mask=None)

    return list(map(cut, pictures(shown, masked=True)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lines_of_one_place_are_neither_a_pose_nor_a_mark(seed: int) -> None:
    assert {"pose", "watermark"} & set(kinds(pictures(in_one_place(seed)))) == set()


@pytest.mark.parametrize("seed", SEEDS)
def test_before_a_plain_backdrop_a_pose_and_a_mark_are_named_beside_it(seed: int) -> None:
    free, posed = before_a_backdrop(scenes(seed)), before_a_backdrop(in_one_pose(seed))
    marked = [lettered(one) for one in free]
    found = [set(kinds(shown)) & {"background", "pose", "watermark"} for shown in (free, posed, marked)]
    assert found == [{"background"}, {"background", "pose"}, {"background", "watermark"}]


def test_three_pictures_are_too_few_to_find_a_mark_on() -> None:
    assert "watermark" not in kinds([lettered(one) for one in pictures(scenes(1, 3))])


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_picture_turned_on_its_side_is_named_with_the_upright_one(times: int) -> None:
    upright = pictures(scenes(2))
    lying = replace(upright[1], name="lying.png", pixels=upright[1].pixels.rot90(times).contiguous())
    assert set(kinds([*upright, lying])["turned"]) == {"1.png", "lying.png"}


def test_a_turned_picture_does_not_hide_what_the_others_share() -> None:
    alike = [lettered(one) for one in pictures(scenes(2))]
    lying = replace(alike[1], name="lying.png", pixels=alike[1].pixels.rot90().contiguous())
    assert set(kinds([*alike, lying])) == {"watermark", "turned"}


def cut_outs() -> list[Picture]:
    """Five things on exact white."""
    boxes = {"red": (280, 280, 520, 520), "purple": (240, 330, 560, 470), "teal": (100, 500, 300, 640)}
    boxes |= {"navy": (250, 310, 550, 490), "orange": (330, 240, 470, 560)}
    found = []
    for name, box in boxes.items():
        image = Image.new("RGB", (800, 800), "white")
        draw = ImageDraw.Draw(image)
        (draw.ellipse if len(found) < 3 else draw.rectangle)(box, name)
        found.append(Picture(name, torch.from_numpy(np.array(image))))
    return found


def test_different_things_on_exact_white_are_neither_near_duplicates_nor_turned() -> None:
    assert not {"near-duplicates", "turned"} & set(kinds(cut_outs()))


def test_of_things_on_exact_white_copies_and_turned_ones_are_named() -> None:
    things = cut_outs()
    smaller = torch.from_numpy(np.array(Image.fromarray(things[2].pixels.numpy()).resize((300, 300))))
    lying = things[3].pixels.rot90().contiguous()
    found = kinds([*things, replace(things[2], name="smaller", pixels=smaller), Picture("lying", lying)])
    assert set(found["near-duplicates"]) == {"teal", "smaller"} and set(found["turned"]) == {"navy", "lying"}


def test_blank_pictures_are_near_duplicates_where_they_are_of_one_colour() -> None:
    blank = [Picture(f"{grey}", torch.full((64, 64, 3), grey, dtype=torch.uint8)) for grey in (9, 9, 200)]
    assert twins_of(blank) == [(0, 1)]


def masked(name: str, seed: int, box: tuple[int, int, int, int]) -> Picture:
    """A picture of the world under a mask of its own: rows and columns from - to."""
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 255
    return replace(pictures(scenes(seed, 1))[0], name=name, mask=mask)


def test_a_small_and_a_cut_off_subject_are_named_and_a_close_up_is_not() -> None:
    found = kinds(
        [
            masked("far", 0, (20, 32, 40, 52)),
            masked("off", 1, (10, 50, 40, 64)),
            masked("whole", 2, (16, 48, 4, 44)),
            masked("close", 3, (4, 64, 0, 64)),
        ]
    )
    assert found["small"] == ("far",) and found["cropped"] == ("off",) and "pose" not in found


def test_masks_of_the_same_place_in_another_size_are_not_one_scale() -> None:
    sizes = [(22 - 4 * i, 42 + 4 * i) for i in range(4)]
    assert "pose" not in kinds([masked(f"{i}", i, (*side, *side)) for i, side in enumerate(sizes)])
    assert "pose" in kinds([masked(f"{i}", i, (16, 48, 16, 48)) for i in range(4)])


# -- the set's score


def points(shown: list[Picture]) -> int:
    dataset = dataset_of(shown)
    return health(dataset, examine(dataset, SIDE)).points


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: [lettered(one) for one in good],
        lambda good: [*good, replace(good[0], name="again.png")],
        lambda good: good[:2],
        lambda good: [replace(good[0], pixels=torch.full((64, 64, 3), 99, dtype=torch.uint8)), *good[1:]],
    ],
    ids=["marked", "doubled", "few", "blank"],
)
def test_every_fault_lowers_the_score(spoil: Callable[[list[Picture]], list[Picture]]) -> None:
    good = pictures(scenes(2))
    assert points(good) == 100 > points(spoil(good)) >= 0


def test_a_fault_of_one_picture_weighs_less_in_a_larger_set() -> None:
    def told(count: int) -> int:
        dataset = dataset_of(pictures(scenes(2, count)))
        return health(dataset, [Finding("blur", ("0.png",), "")]).points

    assert told(4) == round(100 - COSTS["blur"][0] / 4) and told(8) == round(100 - COSTS["blur"][0] / 8)


def test_the_score_names_its_reasons_and_never_falls_below_0() -> None:
    dataset: ConceptDataset = dataset_of(pictures(scenes(2)))
    names = tuple(picture.name for picture in dataset.pictures)
    every = [Finding(kind, names, "") for kind in COSTS]
    assert health(dataset, every).points == 0
    assert "blur -6" in health(dataset, [Finding("blur", names[:1], "")]).sentence
