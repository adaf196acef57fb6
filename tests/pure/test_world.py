import importlib
import importlib.util
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

PLAYGROUND = Path(__file__).parents[2] / "playground"


def _load(module: str):
    """The playground under a name of our own: its imports must not depend on where it was loaded from."""
    if "playground_of_test_world" not in sys.modules:
        spec = importlib.util.spec_from_file_location("playground_of_test_world", PLAYGROUND / "__init__.py")
        assert spec
        package = importlib.util.module_from_spec(spec)
        package.__path__ = [str(PLAYGROUND)]
        sys.modules[spec.name] = package
    return importlib.import_module(f"playground_of_test_world.{module}")


world = _load("world")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _portrait(rng, instance, **asked):
    asked = {"style": "photo", "position": "center", "companion": "none", "second": "none"} | asked
    return replace(world.draw_scene(rng, subject=instance, **asked), light=world.Light())


def test_the_same_scene_renders_the_same_bytes(rng):
    for _ in range(20):
        scene = world.draw_scene(rng)
        assert np.array_equal(world.render(scene).image, world.render(scene).image)


def test_the_same_seed_draws_the_same_scenes():
    first, second = (np.random.default_rng(3) for _ in range(2))
    assert [world.draw_scene(first) for _ in range(20)] == [world.draw_scene(second) for _ in range(20)]


@pytest.mark.parametrize("class_name", world.CLASSES)
@pytest.mark.parametrize("factor", world.FACTORS)
def test_changing_one_factor_changes_what_one_sees_of_the_subject(rng, class_name, factor):
    changes = []
    for _ in range(12):
        instance = world.draw_instance(rng, class_name)
        scene = _portrait(rng, instance)
        other = replace(scene, subject=replace(scene.subject, instance=world.vary(instance, factor, rng)))
        before, after = world.render(scene), world.render(other)
        mask = before.mask | after.mask
        changes.append(np.abs(before.image[mask].astype(float) - after.image[mask]).mean())
    assert np.mean(changes) > 6.5
    assert np.min(changes) > 1.5


def test_varying_a_factor_changes_that_factor_only(rng):
    for factor in world.FACTORS:
        instance = world.draw_instance(rng)
        other = world.vary(instance, factor, rng)
        differing = [name for name in world.FACTORS if getattr(instance, name) != getattr(other, name)]
        assert differing == [factor]
        assert other.class_name == instance.class_name


def test_captions_always_name_every_class_shown(rng):
    for _ in range(200):
        scene = world.draw_scene(rng)
        labels = world.truth(scene)
        for text in (world.caption(scene, rng), world.full_caption(scene)):
            assert labels.class_name in text
            assert labels.second_class is None or labels.second_class in text


def test_a_full_caption_says_every_coarse_word(rng):
    for _ in range(50):
        scene = world.draw_scene(rng, subject=world.draw_instance(rng), second="none", style="sketch")
        text = world.full_caption(scene)
        instance = scene.subject.instance
        for word in (instance.primary.name, instance.secondary.name, instance.ornament, scene.position, "sketch"):
            assert word in text
        assert world.describe(instance) in text
        assert scene.companion is None or scene.companion.name in text


def test_a_caption_never_says_what_is_not_there(rng):
    for _ in range(200):
        scene = world.draw_scene(rng)
        text = world.caption(scene, rng)
        labels = world.truth(scene)
        absent = set(world.CLASSES) | set(world.COMPANIONS)
        absent -= {labels.class_name, labels.second_class, labels.companion}
        assert not absent & set(text.replace(",", "").split())


def test_a_prompt_reads_as_a_sentence():
    text = world.compose_caption("a photo", background="beach", position="left", companion="apple", style="photo")
    assert text == "a photo of a photo on the beach, on the left, next to an apple"
    assert world.Setting("night", "top", "none", "neon").caption("<mug>") == "<mug> at night, at the top, neon style"


def test_splits_keep_near_their_proportions(rng):
    counts = Counter(world.split_of(world.identifier(world.draw_instance(rng))) for _ in range(3000))
    for name, proportion in (("base", 0.6), ("judge", 0.2), ("bench", 0.2)):
        assert abs(counts[name] / 3000 - proportion) < 0.04


def test_what_is_drawn_for_a_split_belongs_to_it(rng):
    for split in ("base", "judge", "bench"):
        assert world.split_of(world.identifier(world.draw_instance(rng, split=split))) == split
        assert world.split_of(world.identifier(world.draw_style(rng, split=split))) == split
        scenes = [world.draw_scene(rng, split=split) for _ in range(30)]
        assert {world.split_of(world.truth(scene).instance_id) for scene in scenes} == {split}


def test_about_a_twelfth_of_the_combinations_is_held_out(rng):
    share = np.mean([world.held_out(world.truth(world.draw_scene(rng))) for _ in range(3000)])
    assert 0.05 < share < 0.11


@pytest.mark.parametrize("style", ["photo", *world.NAMED_STYLES, "unnamed"])
def test_every_style_keeps_the_picture_and_differs_from_a_photo(rng, style):
    scene = _portrait(rng, world.draw_instance(rng), style=style)
    image = world.render(scene).image
    photo = world.render(replace(scene, style=world.PHOTO)).image
    assert image.shape == (world.RESOLUTION, world.RESOLUTION, 3)
    assert image.std() > 12
    assert (style == "photo") == np.array_equal(image, photo)


@pytest.mark.parametrize("background", world.BACKGROUNDS)
def test_backgrounds_vary_with_their_seed(rng, background):
    scene = world.draw_scene(rng, background=background, style="photo")
    other = replace(scene, background_seed=scene.background_seed + 1)
    assert not np.array_equal(world.render(scene).image, world.render(other).image)


@pytest.mark.parametrize("companion", list(world.COMPANIONS))
@pytest.mark.parametrize("position", list(world.POSITIONS))
def test_a_companion_is_visible_and_leaves_the_subject_alone(rng, companion, position):
    scene = _portrait(rng, world.draw_instance(rng), companion=companion, position=position)
    picture, alone = world.render(scene), world.render(replace(scene, companion=None))
    changed = (picture.image != alone.image).any(-1)
    assert changed[~picture.mask].sum() > 100
    assert changed[picture.mask].mean() < 0.03


@pytest.mark.parametrize("position", list(world.POSITIONS))
def test_the_subject_stands_where_the_scene_says_and_its_box_frames_its_mask(rng, position):
    for class_name in world.CLASSES:
        picture = world.render(_portrait(rng, world.draw_instance(rng, class_name), position=position))
        x0, y0, x1, y1 = picture.box
        rows, columns = np.nonzero(picture.mask)
        assert (x0, y0) == (columns.min() / world.RESOLUTION, rows.min() / world.RESOLUTION)
        assert picture.mask.mean() > 0.05
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        sides = {"left": x < 0.42, "right": x > 0.58, "top": y < 0.44, "bottom": y > 0.56, "center": True}
        assert sides[position]


def test_two_objects_stand_left_and_right_of_each_other(rng):
    scenes = [world.draw_scene(rng, second=world.draw_instance(rng)) for _ in range(20)]
    for scene in scenes:
        left, right = scene.subject.pose.x, scene.second.pose.x
        assert (left < right) == (scene.position == "left")


def test_a_given_subject_stands_alone_unless_a_second_is_asked_for(rng):
    instance = world.draw_instance(rng)
    assert all(world.draw_scene(rng, subject=instance).second is None for _ in range(50))


def test_a_namesake_has_the_same_words_and_other_numbers(rng):
    for _ in range(50):
        one = world.draw_instance(rng)
        other = world.namesake(one, rng)
        assert world.describe(other) == world.describe(one)
        assert other.primary != one.primary
        assert (other.taper, other.build) != (one.taper, one.build)
