from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from concept_loom.playground import judge as judging
from concept_loom.playground import judge_networks as looking
from concept_loom.playground import scores, world
from concept_loom.playground.judge import Answers
from concept_loom.playground.training import judge_pictures


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture(scope="module", params=judging.NAMES)
def judge(request) -> judging.Judge:
    torch.manual_seed(0)
    return judging.Judge(judging.new_networks(request.param))


def _images(rng, count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([world.render(world.draw_scene(rng)).image for _ in range(count)]))


def _names(head: str) -> tuple[str, ...]:
    return (judging.WHOLE_HEADS | judging.CROP_HEADS)[head.removeprefix("left ").removeprefix("right ")]


def test_a_judge_answers_for_every_picture(judge, rng):
    images = _images(rng, 5)
    for head, answer in judge.attributes(images).items():
        assert set(answer) <= set(_names(head)) and len(answer) == 5
    assert judge.boxes(images).shape == (5, 4)
    for vectors in (judge.identity(images), judge.style(images), judge.scene(images)):
        assert torch.allclose(vectors.norm(dim=1), torch.ones(5), atol=1e-4)


def test_what_a_judge_says_does_not_depend_on_the_batch(judge, rng):
    images = _images(rng, 3)
    together = judge.identity(images)
    apart = torch.cat([judge.identity(image[None]) for image in images])
    assert torch.allclose(together, apart, atol=1e-4)


def test_a_saved_judge_is_small_and_says_the_same(rng, tmp_path):
    torch.manual_seed(1)
    for name in judging.NAMES:
        networks = judging.new_networks(name)
        path = tmp_path / f"judge-{name}.safetensors"
        judging.save_judge(networks, path)
        assert path.stat().st_size < 2_000_000
        images = _images(rng, 2)
        loaded, original = judging.load_judge(name, tmp_path), judging.Judge(networks)
        assert torch.allclose(loaded.identity(images), original.identity(images), atol=1e-2)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="judge-second.safetensors"):
        judging.load_judge("second", tmp_path)


def test_a_cut_shows_the_box_and_its_margin():
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, 16:32, 8:40] = 1  # 32 wide, 16 high
    shown = looking.cut(x, looking.framed(torch.tensor([[8, 16, 40, 32]]) / 64), 48)[0, 0]
    side = 48 / (1 + 2 * looking.MARGIN)  # of the box's longer side, in the cut
    assert (shown[24] > 0.5).sum() == pytest.approx(side, abs=1)
    assert (shown[:, 24] > 0.5).sum() == pytest.approx(side / 2, abs=1)


def test_a_closer_look_lies_inside_the_frame():
    x = torch.zeros(1, 3, 64, 64)
    x[:, :, 40:48, 40:48] = 1
    frame = looking.Frame(torch.zeros(1, 2), torch.ones(1))
    shown = looking.cut(x, frame.inner(torch.tensor([[0.375, 0.375]]), 0.125), 8)
    assert shown.mean() == pytest.approx(1.0)


def test_ornament_and_panel_lie_where_the_renderer_puts_them(rng):
    for _ in range(10):
        instance = replace(world.draw_instance(rng), place="middle")
        figure = world.draw_scene(rng, subject=instance, second="none").subject
        middle = judge_pictures.places(figure)
        lower = judge_pictures.places(replace(figure, instance=replace(instance, place="lower right")))
        assert np.allclose(middle[:2], middle[2:4])
        assert np.allclose(middle[2:], lower[2:])
        assert np.abs(middle[:2] - (figure.pose.x, figure.pose.y)).max() < figure.pose.half
        assert (lower[:2] > middle[:2] - 0.15 * figure.pose.half).all()


def test_the_right_answers_are_those_a_picture_shows(rng):
    for _ in range(100):
        truth = world.truth(world.draw_scene(rng))
        answers = judging.visible(truth)
        assert all(name in _names(head) for head, name in answers.items())
        assert ("class" in answers) == (truth.second_class is None)
        assert ("left class" in answers) == (truth.second_class is not None)
        if truth.second_class and truth.position == "right":
            assert answers["left class"] == truth.second_class
        if truth.style in ("sketch", "unnamed"):
            assert not any("colour" in head for head in answers)


def test_judges_learn_from_their_own_split_only(rng):
    styles = Counter()
    for _ in range(20):
        for one in judge_pictures._family(rng):
            assert world.split_of(world.identifier(one)) == "judge"
        style = judge_pictures._style(rng)
        styles[type(style)] += 1
        assert isinstance(style, str) or world.split_of(world.identifier(style)) == "judge"
    assert len(styles) == 2


def test_a_family_differs_in_one_factor(rng):
    for _ in range(20):
        one, other = judge_pictures._family(rng)
        assert sum(getattr(one, factor) != getattr(other, factor) for factor in world.FACTORS) == 1


def test_rendered_shards_are_found_again(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(judge_pictures, "GROUPS", 4)
    first = judge_pictures._shard(tmp_path, "scenes", judge_pictures._scene_rows, 0)
    made = first.stat().st_mtime_ns
    assert judge_pictures._shard(tmp_path, "scenes", judge_pictures._scene_rows, 0).stat().st_mtime_ns == made
    rows = np.load(first)
    styles = rows["styles"].reshape(4, judge_pictures.VIEWS)
    assert (styles == styles[:, :1]).all()
    two = rows["answers"][:, list(judging.WHOLE_HEADS).index("objects")] == 1
    assert (np.isnan(rows["boxes"][:, 0, 0]) == two).all()


def test_every_style_has_its_own_numbers():
    looks = {name: judge_pictures.look(style) for name, style in world.NAMED_STYLES.items()}
    assert {len(numbers) for numbers in looks.values()} == {judge_pictures.LOOKS}
    assert len({tuple(numbers) for numbers in looks.values()}) == len(looks)


def _answers(**heads: list[str]) -> Answers:
    return {head.replace("_", " "): names for head, names in heads.items()}


BEACH = world.Setting("beach", "left", "ball", "photo")


def test_attributes_are_the_share_of_what_was_asked():
    seen = _answers(**{"class": ["mug", "mug"]}, background=["beach", "snow"], position=["left", "right"])
    seen |= _answers(style=["photo", "photo"], companion=["ball", "none"])
    wanted = [scores.asked(BEACH, "mug")] * 2
    assert scores.attributes(seen, wanted).tolist() == pytest.approx([1.0, 0.4])


def test_a_companion_is_asked_for_only_where_one_is_named():
    assert scores.asked(BEACH, "mug")["companion"] == "ball"
    assert "companion" not in scores.asked(world.Setting("beach", "left", "none", "photo"), "mug")


def test_two_objects_are_bound_when_each_has_its_own_colour_on_its_own_side():
    wanted = {"objects": "two", "left class": "mug", "right class": "bag", "left colour": "red", "right colour": "blue"}
    seen = _answers(objects=["two"] * 3, left_class=["mug", "mug", "bag"], right_class=["bag", "bag", "mug"])
    seen |= _answers(left_colour=["red", "blue", "blue"], right_colour=["blue", "red", "red"])
    assert scores.bound(seen, [wanted] * 3).tolist() == [True, False, False]


def test_a_copy_is_nearer_to_a_training_picture_than_real_pairs_are():
    draw = torch.Generator().manual_seed(0)
    real = torch.nn.functional.normalize(torch.randn(40, 32, generator=draw), dim=1)
    training, fresh = real[:5], real[5:]
    memorised = torch.nn.functional.normalize(training + 0.02 * torch.randn(5, 32, generator=draw), dim=1)
    assert scores.copied(memorised, training, fresh).all()
    assert scores.copied(fresh, training, fresh).float().mean() < 0.1


def test_kept_and_leak():
    seen = _answers(background=["beach", "snow", "beach"])
    leaks = scores.leaks(seen, ["snow", "snow", "beach"], "beach")
    assert leaks[:2].tolist() == [1.0, 0.0]
    assert leaks[2].isnan()
    assert scores.kept(torch.tensor([0.2, 0.9]), 0.5).tolist() == [False, True]
