"""The towers against their equations, and what is asked of their training and their files."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from concept_loom.personalization.network_file import FORMAT
from concept_loom.personalization.pictures import PictureError
from concept_loom.personalization.refusal import ConceptFileError
from concept_loom.personalization.towers.file import TOWERS, TowersFile, TowersInfo
from concept_loom.personalization.towers.importance import Importance
from concept_loom.personalization.towers.instruct import instructed, instructions, style_of, words_of
from concept_loom.personalization.towers.networks import Towers, TowersShape, untrained
from concept_loom.personalization.towers.restyle import KINDS, restyled
from concept_loom.personalization.towers.triplets import Sizes, triplets_of, users_of
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from . import concepts

SHAPE = TowersShape(vision=12, context=6, width=8, tokens=3)
FEW = 5  # tokens of a picture


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def towers() -> Towers:
    """As if trained: nothing is zero."""
    made = untrained(SHAPE, 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * draw(*parameter.shape)
    return made.requires_grad_(False)


def norm(x: torch.Tensor, layer: torch.nn.LayerNorm) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)


def test_a_tower_is_one_cross_attention_and_one_feed_forward_layer(towers: Towers) -> None:
    """h = Attn(LN q, LN kv), F = h + FF(LN h), for one sample and one head, written out."""
    tower, q, kv = towers.style, draw(1, FEW, 12), draw(1, 7, 12)
    one, two = norm(q[0], tower.norm_q), norm(kv[0], tower.norm_kv)
    attention, wide = tower.attention, tower.feed_forward
    logits = (one @ attention.to_q.weight.T) @ (two @ attention.to_k.weight.T).T * 8**-0.5
    shares = logits.softmax(-1)
    h = shares @ (two @ attention.to_v.weight.T) @ attention.to_out.weight.T + attention.to_out.bias
    inner = F.gelu(norm(h, wide.norm) @ wide.up.weight.T + wide.up.bias)
    read = tower(q, kv)
    assert torch.allclose(read.features[0], h + inner @ wide.down.weight.T + wide.down.bias, atol=1e-5)
    assert torch.allclose(read.shares[0], shares, atol=1e-5)


def test_what_the_asking_picture_shows_passes_a_tower_only_as_what_it_attends_to(towers: Towers) -> None:
    """With equal keys there is nothing to choose between, and the query is of no consequence."""
    kv = draw(1, 1, 12).expand(1, 7, 12)
    one, other = (towers.style(q, kv).features for q in (draw(1, FEW, 12), 5 * draw(1, FEW + 1, 12)[:, 1:]))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_fusion_gives_m_tokens_of_the_contexts_width_and_an_untrained_one_nothing(towers: Towers) -> None:
    style, semantics = draw(2, FEW, 8), draw(2, FEW + 1, 8)
    assert towers.fusion(style, semantics).shape == (2, 3, 6)
    assert not untrained(SHAPE, 1).fusion(style, semantics).any()


def test_what_is_hidden_from_the_fusion_is_as_if_it_were_not_there(towers: Towers) -> None:
    style, semantics = draw(1, FEW, 8), draw(1, FEW + 1, 8)
    bias = torch.cat([torch.zeros(1, FEW), torch.full((1, FEW + 1), -3.0e4)], 1)
    alone = towers.fusion(style, semantics[:, :0])
    assert torch.allclose(towers.fusion(style, semantics, bias), alone, atol=1e-6)
    assert not torch.allclose(towers.fusion(style, semantics), alone, atol=1e-3)


def test_a_history_of_equal_pictures_weighs_as_much_as_one(towers: Towers) -> None:
    picture, reference = draw(1, FEW, 12), draw(1, FEW + 1, 12)[:, 1:]
    one, five = (instructions(towers, picture.expand(n, -1, -1), reference) for n in (1, 5))
    for name in ("style", "semantics", "both"):
        assert torch.allclose(getattr(one, name), getattr(five, name), atol=1e-5)
    assert torch.allclose(five.weights, torch.full((5,), 0.2)) and one.weights.tolist() == [1.0]


def test_weights_of_the_history_sum_to_one_and_follow_the_attention_that_others_pay(towers: Towers) -> None:
    history = torch.cat([draw(1, FEW, 12), draw(2, FEW, 12), draw(1, FEW + 2, 12)[:, 2:]])
    weights = style_of(towers, history).weights
    assert float(weights.sum()) == pytest.approx(1)
    shares = [towers.style(history[[0]], history[[1, 2, 3]].reshape(1, -1, 12)).shares[0].mean(0).view(3, -1).sum(1)]
    shares += [towers.style(history[[n]], history[[i for i in range(4) if i != n]].reshape(1, -1, 12)).shares[0]
               .mean(0).view(3, -1).sum(1) for n in (1, 2, 3)]  # fmt: skip
    assert float(weights[0]) == pytest.approx(float(sum(one[0] for one in shares[1:])) / 4)


def test_the_style_does_not_depend_on_the_reference_nor_the_semantics_on_the_history(towers: Towers) -> None:
    history, other = draw(3, FEW, 12), draw(2, FEW, 12)
    a, b = draw(1, FEW, 12), draw(1, FEW + 1, 12)[:, 1:]
    assert torch.equal(instructions(towers, history, a).style, instructions(towers, history, b).style)
    assert torch.equal(instructions(towers, history, a).semantics, instructions(towers, other, a).semantics)
    assert not torch.allclose(instructions(towers, history, a).both, instructions(towers, other, a).both, atol=1e-3)


def test_their_concepts_act_at_every_site_under_three_words(towers: Towers) -> None:
    made = instructions(towers, draw(2, FEW, 12), draw(1, FEW, 12))
    words = words_of("mine", "mug")
    found = [instructed(one, made.both, concepts.concept().info) for one in words]
    assert [one.info.placeholder for one in found] == ["mine_style", "mine_content", "mine"]
    assert all(one.parts[0].sites == tuple(shape.site for shape in concepts.BASE.sites) for one in found)


def test_what_is_reconstructed_badly_is_drawn_more_often() -> None:
    """p_i = softmax(l_i / (T mean l)), written out."""
    importance = Importance(3, 0.5)
    assert importance.probabilities().tolist() == pytest.approx([1 / 3] * 3)
    importance.note(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
    expected = torch.tensor([1.0, 2.0, 3.0]) / (0.5 * 2.0)  # the second was never asked and counts as the mean
    assert importance.probabilities().tolist() == pytest.approx(expected.softmax(0).tolist())
    importance.note(torch.tensor([2]), torch.tensor([1.0]))
    assert float(importance.losses[2]) == pytest.approx(3 - 0.05 * 2)
    drawn = importance.drawn(4000, torch.Generator().manual_seed(0)).bincount(minlength=3) / 4000
    assert (drawn - importance.probabilities()).abs().max() < 0.03


def test_losses_of_another_scale_give_the_same_probabilities() -> None:
    one, other = Importance(2, 1.0), Importance(2, 1.0)
    one.note(torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    other.note(torch.tensor([0, 1]), torch.tensor([1e-3, 2e-3]))
    assert one.probabilities().tolist() == pytest.approx(other.probabilities().tolist())


def test_a_picture_is_only_drawn_among_those_that_are_allowed() -> None:
    importance = Importance(4, 1.0)
    importance.note(torch.tensor([0]), torch.tensor([100.0]))
    allowed = torch.tensor([[False, True, False, True]] * 50)
    drawn = importance.drawn_among(allowed, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_every_change_of_style_leaves_things_where_they_are(change) -> None:
    """A bright square on the left stays one, and the picture is changed."""
    picture = 0.2 + 0.05 * torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    picture[16:48, 4:28] = 0.8
    changed = change(picture, torch.Generator().manual_seed(1)).clamp(0, 1)
    assert changed.shape == picture.shape and not torch.allclose(changed, picture, atol=1e-3)
    assert changed[20:44, 8:24].mean() > changed[:, 36:].mean() + 0.2


def test_a_restyled_picture_takes_the_colours_of_another_and_is_the_same_for_the_same_seed() -> None:
    grey, red = torch.rand(64, 64, 1).expand(-1, -1, 3), torch.rand(64, 64, 3) * torch.tensor([1.0, 0.2, 0.2])
    made = [restyled(grey, red, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert made[0][..., 0].mean() > made[0][..., 1].mean() + 0.1
    assert all(one.min() >= 0 and one.max() <= 1 for one in made)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for user, count in {"ada": 3, "bob": 2, "eve": 1}.items():
        (tmp_path / user).mkdir()
        for number in range(count):
            pixels = (255 * torch.rand(40, 32, 3)).byte().numpy()
            Image.fromarray(pixels).save(tmp_path / user / f"{number}.png")
    return tmp_path


def test_sub_folders_are_users_and_one_with_a_single_picture_is_named(folder: Path) -> None:
    found = users_of(folder)
    assert sorted(len(user.pictures) for user in found.users) == [2, 3]
    assert len(found.unread) == 1 and "eve has 1 pictures" in found.unread[0]
    (folder / "ada").rename(folder / "zoe")
    assert users_of(folder).hash == found.hash


def test_a_folder_with_one_style_only_is_refused(folder: Path) -> None:
    for picture in (folder / "bob").iterdir():
        picture.unlink()
    with pytest.raises(PictureError, match="has 1 sub-folders of at least 2 pictures; 2 are needed"):
        users_of(folder)


def test_triplets_hold_each_picture_and_copies_of_it_for_both_encoders(folder: Path) -> None:
    seen = []

    def tokens(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pictures.shape))
        return pictures.mean((1, 2))[:, None]

    made = triplets_of(users_of(folder), Sizes(16, 8), 2, 0, (lambda pictures: pictures.movedim(-1, 1), tokens))
    assert made.latents.shape == (5, 3, 16, 16) and made.tokens.shape == (5, 1, 3) and made.copies.shape == (5, 2, 1, 3)
    assert set(seen) == {(1, 8, 8, 3)} and made.users.bincount().tolist() in ([2, 3], [3, 2])
    assert not torch.allclose(made.copies[:, 0], made.tokens)


# -- files


@pytest.fixture
def kept(towers: Towers) -> TowersFile:
    info = TowersInfo("SD 1.5", SHAPE, "a toy", "toy.safetensors", {"steps": 3}, "data", 7, 3, (0.5, 0.25), "key")
    return TowersFile(info, draw(12), towers.state_dict())


def test_what_was_saved_is_loaded(kept: TowersFile, tmp_path: Path) -> None:
    TOWERS.save(kept, tmp_path / "towers.safetensors")
    loaded = TOWERS.load(tmp_path / "towers.safetensors")
    assert loaded.info == kept.info == TOWERS.read_info(tmp_path / "towers.safetensors")
    assert loaded.hash == kept.hash
    assert TOWERS.trained_before("key", [tmp_path]) == tmp_path / "towers.safetensors"
    assert TOWERS.trained_before("other", [tmp_path]) is None
    towers = Towers(loaded.info.shape)
    towers.load_state_dict(loaded.state)


def written(kept: TowersFile, path: Path, tensors: dict, **header: object) -> Path:
    """A file as another program might write it; `tensors` that are None are left out."""
    whole = {name: one.contiguous() for name, one in {**kept.tensors(), **tensors}.items() if one is not None}
    own = {"format": FORMAT, **asdict(kept.info), "tensor_hash": kept.hash, **header}
    save_file(whole, path, {TOWERS.key: json.dumps(own)})
    return path


@pytest.mark.parametrize(
    ("tensors", "header", "said"),
    [
        ({"probe": None}, {}, "'probe' is missing"),
        ({"style.norm_q.weight": None}, {}, "'style.norm_q.weight' is missing"),
        ({"fusion.queries": torch.ones(2, 8)}, {}, r"is \(2, 8\) where \(3, 8\) belongs"),
        ({"extra": torch.ones(1)}, {}, "belongs to no towers"),
        ({"probe": torch.full((12,), torch.inf)}, {}, "not finite"),
        ({"probe": torch.ones(12, dtype=torch.int32)}, {}, "not floating point"),
        ({"probe": torch.ones(12)}, {}, "not the ones that were saved"),
        ({}, {"format": 2}, "has format 2"),
        ({}, {"family": 3}, "'family' is no str"),
        ({}, {"losses": ["low"]}, "header is not what"),
        ({}, {"shape": {"vision": 12, "context": 6, "width": 1 << 20, "tokens": 3}}, "is no size"),
        ({}, {"shape": {"vision": 12, "context": 6, "width": 129, "tokens": 3}}, "cannot be built"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_name(
    kept: TowersFile, tmp_path: Path, tensors: dict, header: dict, said: str
) -> None:
    path = written(kept, tmp_path / "odd.safetensors", tensors, **header)
    with pytest.raises(ConceptFileError, match=said) as refused:
        TOWERS.load(path)
    assert "odd.safetensors" in str(refused.value)


@pytest.mark.parametrize("keep", [0, 8, 60, -1])
def test_a_truncated_file_is_refused(kept: TowersFile, tmp_path: Path, keep: int) -> None:
    path = written(kept, tmp_path / "cut.safetensors", {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConceptFileError, match="cut.safetensors"):
        TOWERS.load(path)


def test_a_concept_is_no_towers_file(tmp_path: Path) -> None:
    from concept_loom.personalization import checkpoint

    checkpoint.save(concepts.concept(), tmp_path / "mug.safetensors")
    with pytest.raises(ConceptFileError, match="not written by Train Towers"):
        TOWERS.load(tmp_path / "mug.safetensors")


def test_a_failed_save_leaves_the_old_file(kept: TowersFile, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "towers.safetensors"
    TOWERS.save(kept, path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        TOWERS.save(replace(kept, probe=draw(13)[1:]), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
