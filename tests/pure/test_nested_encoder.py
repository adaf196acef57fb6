"""The nested encoder against its equations, what it is trained on, and its training over a denoiser that obeys."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_loom.personalization.composition import Composition
from concept_loom.personalization.denoiser import Context
from concept_loom.personalization.nested_encoder.file import ENCODERS, EncoderFile, EncoderInfo
from concept_loom.personalization.nested_encoder.network import EncoderShape, NestedEncoder, untrained
from concept_loom.personalization.nested_encoder.recipe import EncoderRecipe
from concept_loom.personalization.nested_encoder.spoken import spoken
from concept_loom.personalization.nested_encoder.subjects import Sizes, Views, subjects_of, views_of
from concept_loom.personalization.nested_encoder.training import Draw, EncoderRun, EncoderTask, Trained, train
from concept_loom.personalization.parts import NestedValues
from concept_loom.personalization.pictures import PictureError
from concept_loom.personalization.refusal import ConceptFileError
from concept_loom.personalization.text_file import CLASS_WORD
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .toy import BASE, CHANNELS, CONTEXT, SIDE, SITES, ToyDenoiser, ToyPromptEncoder

VISION, FEW = 12, 5
SHAPE = EncoderShape(VISION, 6, width=8, depth=2, tokens=3, rank=2, sites=("input.1.0", "output.3.0"))
SUBJECTS, EACH = 10, 3
RECIPE = EncoderRecipe(
    steps=60, batch_size=8, learning_rate=1e-2, width=16, depth=1, tokens=2, rank=2, min_snr=1.0, templates=("a {}",)
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network() -> NestedEncoder:
    """As if trained: nothing is zero."""
    made = untrained(SHAPE, 1)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter += 0.3 * draw(*parameter.shape, seed=number)
    return made.requires_grad_(False)


def norm(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)


def attended(q: Tensor, kv: Tensor, layer) -> Tensor:
    shares = ((q @ layer.to_q.weight.T) @ (kv @ layer.to_k.weight.T).T * 8**-0.5).softmax(-1)
    return shares @ (kv @ layer.to_v.weight.T) @ layer.to_out.weight.T + layer.to_out.bias


def test_the_encoder_is_its_equations(network: NestedEncoder) -> None:
    """For one picture and one head, written out."""
    seen, row = draw(FEW, VISION), draw(6)
    keys = norm(seen @ network.see.weight.T + network.see.bias, network.norm_seen)
    h = network.queries
    for block in network.blocks:
        h = h + attended(norm(h, block.norm_look), keys, block.look)
        h = h + attended(norm(h, block.norm_own), norm(h, block.norm_own), block.own)
        wide = block.feed_forward
        inner = F.gelu(norm(h, wide.norm) @ wide.up.weight.T + wide.up.bias)
        h = h + inner @ wide.down.weight.T + wide.down.bias
    tokens = row + norm(h, network.norm_out) @ network.out.weight.T + network.out.bias
    made = network(seen[None], row[None])
    assert made.shape == (1, 2, 3, 6)
    for site in range(2):
        expected = tokens + tokens @ network.down[site].T @ network.up[site].T
        assert torch.allclose(made[0, site], expected, atol=1e-5)


def test_untrained_it_gives_the_class_words_own_row_for_every_picture() -> None:
    row = draw(2, 6)
    made = untrained(SHAPE, 1)(draw(2, FEW, VISION), row)
    assert torch.equal(made, row[:, None, None].expand(-1, 2, 3, -1))


# -- what it is trained on


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (255 * torch.rand(40, 32, 3, generator=torch.Generator().manual_seed(seed))).byte().numpy()
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two mugs in sub-folders, one of them named a cup, and a third one beside them."""
    for number, name in enumerate(("red/0.png", "red/1.png", "blue/0.png", "alone.png")):
        write(tmp_path / name, number)
    (tmp_path / "blue" / CLASS_WORD).write_text("cup\n")
    (tmp_path / "red" / "0.txt").write_text("a mug in the snow")
    return tmp_path


def test_sub_folders_and_pictures_beside_them_are_subjects(folder: Path) -> None:
    found = subjects_of(folder, "mug")
    assert sorted((one.class_word, len(one.pictures)) for one in found.subjects) == [("cup", 1), ("mug", 1), ("mug", 2)]
    (folder / "red").rename(folder / "zinc")
    assert subjects_of(folder, "mug").hash == found.hash != subjects_of(folder, "jug").hash


def test_a_single_subject_is_refused_and_so_is_no_folder(folder: Path) -> None:
    with pytest.raises(PictureError, match="single shows 1 subject; at least 2 are needed"):
        subjects_of(_with_one(folder), "mug")
    with pytest.raises(PictureError, match="There is no folder"):
        subjects_of(folder / "none", "mug")


def _with_one(folder: Path) -> Path:
    write(folder / "single" / "inside" / "0.png", 9)
    return folder / "single"


def test_views_hold_each_picture_whole_and_in_crops(folder: Path) -> None:
    sides = []

    def tokens(pictures: Tensor) -> Tensor:
        sides.append(tuple(pictures.shape))
        return pictures.mean((1, 2))[:, None]

    found = subjects_of(folder, "mug")
    made = views_of(found.subjects, Sizes(16, 8), 3, 0, (lambda pictures: pictures.movedim(-1, 1), tokens))
    assert made.latents.shape == (4, 3, 16, 16) and made.tokens.shape == (4, 3, 1, 3) and set(sides) == {(1, 8, 8, 3)}
    assert not torch.equal(made.tokens[:, 0], made.tokens[:, 1])
    assert sorted(made.class_words) == ["cup", "mug", "mug"] and sorted(made.captions)[-1] == "a mug in the snow"


# -- training


class Obedient(ToyDenoiser):
    """Its denoised latents are a fixed linear map of the banks' mean; without banks it cannot be trained."""

    def __init__(self, breaks: int = -1, raises: type[BaseException] | None = None, deaf: bool = False) -> None:
        super().__init__(breaks, raises)
        self.map, self.deaf = draw(CONTEXT, CHANNELS, seed=5) * CONTEXT**-0.5, deaf

    def predict(
        self, noised: Tensor, sigma: Tensor, contexts: Sequence[Context], composition: Composition = ()
    ) -> Tensor:
        self.calls += 1
        if self.calls == self.breaks and self.raises:
            raise self.raises
        (part,) = composition[0].concept.parts
        assert isinstance(part, NestedValues) and all(one.slots for one in contexts)
        banks = torch.stack([part.rows[site].mean(1) for site in SITES]).mean(0)
        drawn = (banks @ self.map)[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        drawn = drawn.detach() if self.deaf else drawn
        return drawn * torch.nan if self.calls == self.breaks else drawn


def views() -> Views:
    """Flat latents that are the subject's own; tokens show the subject and which picture of it."""
    looks, owners = draw(SUBJECTS, CHANNELS), torch.arange(SUBJECTS).repeat_interleave(EACH)
    shown = torch.cat([looks[owners], draw(SUBJECTS * EACH, 4, seed=2)], 1) @ draw(CHANNELS + 4, FEW * VISION, seed=3)
    tokens = shown.unflatten(-1, (FEW, VISION))[:, None]
    latents = looks[owners][:, :, None, None].expand(-1, -1, SIDE, SIDE)
    return Views(latents, tokens, owners, ("",) * len(owners), ("mug", "cup") * (SUBJECTS // 2))


def task(denoiser: ToyDenoiser | None = None, **changes: object) -> EncoderTask:
    return EncoderTask(denoiser or Obedient(), ToyPromptEncoder(), views(), replace(RECIPE, **changes), seed=2)


@pytest.fixture(scope="module")
def learned() -> Trained:
    return train(task(steps=200, batch_size=16))


def test_trained_it_tells_the_subjects_of_pictures_apart(learned: Trained) -> None:
    """What is drawn from any picture of a subject is nearer to that subject than to any other."""
    seen, looks = views(), draw(SUBJECTS, CHANNELS)
    assert sum(learned.losses[-20:]) < 0.4 * sum(learned.losses[:20])
    rows = torch.stack([spoken(ToyPromptEncoder(), BASE, word).row for word in seen.class_words])[seen.subjects]
    with torch.no_grad():
        drawn = learned.network(seen.tokens[:, 0], rows).mean((1, 2)) @ Obedient().map
    assert (torch.cdist(drawn, looks).argmin(1) == seen.subjects).float().mean() > 0.9


def test_the_same_task_gives_the_same_encoder() -> None:
    one, two = train(task()), train(task())
    state = two.network.state_dict()
    assert one.losses == two.losses and one.finished and len(one.losses) == RECIPE.steps
    assert all(torch.equal(value, state[name]) for name, value in one.network.state_dict().items())


def test_a_picture_is_drawn_from_another_one_of_its_subject() -> None:
    run, seen = EncoderRun(task(batch_size=64)), views()
    drawn = run.draw()
    assert torch.equal(seen.subjects[drawn.target], seen.subjects[drawn.shown])
    assert (drawn.target != drawn.shown).all()


def test_a_lone_picture_is_drawn_from_a_crop_of_it() -> None:
    own = views()
    lone = replace(own, subjects=torch.arange(len(own.subjects)), tokens=own.tokens.expand(-1, 3, -1, -1))
    lone = replace(lone, class_words=("mug",) * len(own.subjects))
    drawn = EncoderRun(replace(task(batch_size=64), views=lone)).draw()
    assert torch.equal(drawn.target, drawn.shown) and set(drawn.crop.tolist()) == {1, 2}


def test_each_picture_starts_from_the_row_of_its_own_class_word() -> None:
    run = EncoderRun(task())
    zero = torch.zeros(2, dtype=torch.long)
    asked = Draw(torch.tensor([0, EACH]), torch.tensor([1, EACH + 1]), zero, zero.float(), zero, ("", ""))
    tokens, rows = run.given(asked)
    assert torch.equal(tokens, views().tokens[[1, EACH + 1], 0])
    assert torch.equal(rows[0], spoken(ToyPromptEncoder(), BASE, "mug").row)
    assert torch.equal(rows[1], spoken(ToyPromptEncoder(), BASE, "cup").row) and not torch.equal(*rows)


def test_interrupts_keep_what_there_is_and_what_cannot_be_trained_is_said() -> None:
    stopped = train(task(Obedient(breaks=8, raises=KeyboardInterrupt)))
    assert not stopped.finished and len(stopped.losses) == 7
    with pytest.raises(KeyboardInterrupt):
        train(task(Obedient(breaks=1, raises=KeyboardInterrupt)))
    with pytest.raises(ArithmeticError, match="NaN or infinity at step 5 of 60.*Lower the learning rate"):
        train(task(Obedient(breaks=5)))
    with pytest.raises(ValueError, match="acts at no site"):
        train(task(Obedient(deaf=True)))


# -- files; what all networks' files share is tested with those of towers


def test_what_was_saved_is_loaded_and_a_file_of_another_kind_is_refused(network: NestedEncoder, tmp_path: Path) -> None:
    info = EncoderInfo("SD 1.5", SHAPE, "a toy", recipe={"class_word": "mug"}, key="key")
    file = EncoderFile(info, draw(VISION), network.state_dict())
    ENCODERS.save(file, tmp_path / "mugs.safetensors")
    loaded = ENCODERS.load(tmp_path / "mugs.safetensors")
    assert loaded.info == info and loaded.hash == file.hash
    assert ENCODERS.trained_before("key", [tmp_path]) == tmp_path / "mugs.safetensors"
    from concept_loom.personalization.towers.file import TOWERS

    with pytest.raises(ConceptFileError, match="no towers file: it was not written by Train Towers"):
        TOWERS.load(tmp_path / "mugs.safetensors")


@pytest.mark.parametrize("sites", [[], [3], ["x" * 65], ["a"] * 257])
def test_sites_that_are_no_names_are_refused(network: NestedEncoder, tmp_path: Path, sites: list) -> None:
    broken = replace(SHAPE, sites=tuple(sites))
    path = tmp_path / "odd.safetensors"
    ENCODERS.save(EncoderFile(EncoderInfo("SD 1.5", broken, "a toy"), draw(VISION), network.state_dict()), path)
    with pytest.raises(ConceptFileError, match="odd.safetensors"):
        ENCODERS.load(path)
