"""Towers on ComfyUI's own classes: trained on a small drawn folder, asked for concepts, and drawn with."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management as host
import numpy as np
import pytest
import torch
from concept_loom.nodes import folders
from concept_loom.nodes.compose import ComposeConcepts
from concept_loom.nodes.files import LoadConcept, SaveConcept
from concept_loom.nodes.towers import TowerEncoder, TrainTowers
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.network_course import NetworkWish, teach_network
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.comfyui.towers import TowersCourse
from concept_loom.personalization.comfyui.vision import Vision
from concept_loom.personalization.pictures import PictureError
from concept_loom.personalization.refusal import ConceptFileError
from concept_loom.personalization.towers.file import TOWERS, TowersFile
from concept_loom.personalization.towers.networks import untrained
from concept_loom.personalization.towers.recipe import TowersRecipe
from concept_loom.personalization.towers.training import TowersTask, train
from concept_loom.personalization.towers.triplets import Triplets, users_of
from concept_loom.playground.model import Playground, load_clip_vision
from concept_loom.playground.model import load as load_playground
from concept_loom.playground.world import draw_scene, render
from concept_loom.tests.scratch_weights import write_scratch_weights
from PIL import Image

from . import tiny
from .networks import drawn, pictures, use_own_folders

STYLES = ("sketch", "neon")


@pytest.fixture(scope="module")
def playground(tmp_path_factory) -> Playground:
    folder = tmp_path_factory.mktemp("weights")
    write_scratch_weights(folder)
    return load_playground(folder)


@pytest.fixture(scope="module")
def users(tmp_path_factory) -> Path:
    """One sub-folder per style, three pictures each."""
    folder, rng = tmp_path_factory.mktemp("users"), np.random.default_rng(5)
    for style in STYLES:
        (folder / style).mkdir()
        for number in range(3):
            Image.fromarray(render(draw_scene(rng, style=style)).image).save(folder / style / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_own_folders("concept_towers", tmp_path, monkeypatch)


def trained(playground: Playground, folder: Path, **inputs: object) -> str:
    node = TrainTowers.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    given = {"name": "towers", "seed": 3, "steps": 4, "tokens": 4, "batch_size": 4, "learning_rate": 1e-2}
    with torch.inference_mode():
        return node.execute(*playground, str(folder), **{**given, **inputs}).result[0]


def file_of(name: str) -> Path:
    path = folders.path_of(name, folders.TOWERS)
    assert path is not None
    return path


def encoded(playground: Playground, towers: str, history: torch.Tensor, reference: torch.Tensor, **given: str):
    words = {name: [value] for name, value in given.items()}
    with torch.inference_mode():
        node = TowerEncoder.execute(
            [playground.model], [playground.clip_vision], [towers], [history], [reference], **words
        )
    return node.result


def test_from_a_folder_to_a_sampled_picture(playground: Playground, users: Path) -> None:
    before = {name: value.clone() for name, value in playground.model.model.state_dict().items()}
    towers = trained(playground, users)
    after = playground.model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    *concepts, bars = encoded(playground, towers, pictures(1, 3), pictures(2, 1), class_word="mug")
    assert [(one.word, one.concept.info.role) for one in concepts] == [
        ("mine_style", "style"),
        ("mine_content", "subject"),
        ("mine", "both"),
    ]
    assert bars.shape[0] == 1 and bars.shape[3] == 3
    plain = drawn(playground.model, playground.clip, "a mug in style")
    texts = {
        "mine_style": "a mug in <mine_style>",
        "mine_content": "a <mine_content> in style",
        "mine": "a <mine> in style",
    }
    for placed in concepts:
        composer = ComposeConcepts.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        model, clip = composer.execute(playground.model, playground.clip, {"concept0": placed}, 1.0).result
        told: list = []
        loom = model.model_options["transformer_options"]["concept_loom"]
        model.model_options["transformer_options"]["concept_loom"] = replace(loom, listeners={placed.word: told.append})
        assert (drawn(model, clip, texts[placed.word]) - plain).abs().max() > 1e-4 * plain.std()
        (report,) = told[0]
        assert report.acted == report.sites == len(placed.concept.info.base.sites)
        assert torch.equal(drawn(model, clip, "a mug in style"), plain)


def test_a_concept_of_the_towers_is_saved_and_loaded_like_any_other(playground: Playground, users: Path) -> None:
    style, *_ = encoded(playground, trained(playground, users), pictures(1, 2), pictures(2, 1))
    SaveConcept.execute(style, "of the towers")
    again = LoadConcept.execute("of the towers.safetensors").result[0].concept
    assert again.hash == style.concept.hash and again.info.method == "towers"
    assert again.thumbnail == style.concept.thumbnail and len(again.thumbnail) > 0


def test_large_photographs_leave_the_files_header_small(playground: Playground, users: Path) -> None:
    photograph = torch.rand(1, 2400, 1800, 3, generator=torch.Generator().manual_seed(0))
    _, semantics, *_ = encoded(playground, trained(playground, users), pictures(1, 1), photograph)
    SaveConcept.execute(semantics, "large")
    assert LoadConcept.execute("large.safetensors").result[0].concept.hash == semantics.concept.hash


def test_the_same_seed_trains_the_same_towers_and_what_was_trained_is_found_again(
    playground: Playground, users: Path, tmp_path: Path
) -> None:
    first = file_of(trained(playground, users))
    assert trained(playground, users, name="other") == first.name
    kept = TOWERS.load(first)
    first.unlink()
    second = TOWERS.load(file_of(trained(playground, users, name="again")))
    assert second.hash == kept.hash
    third = TOWERS.load(file_of(trained(playground, users, seed=4)))
    assert third.hash != kept.hash


def test_stopped_early_they_keep_what_there_is_and_are_not_found_again(
    playground: Playground, users: Path, tmp_path: Path
) -> None:
    def stop(step):
        if step.step == 2:
            raise host.InterruptProcessingException

    model, clip, vae, clip_vision = playground
    wish = NetworkWish(steps=9, batch_size=2)
    course = TowersCourse(Canvas(model, clip, vae), Vision(clip_vision), users_of(users), wish)
    lesson = teach_network(course, "stopped", [tmp_path], stop)
    assert not lesson.finished and TOWERS.read_info(lesson.path).steps == 2 and TOWERS.read_info(lesson.path).key == ""
    assert any(
        one.abs().max() > 0 for name, one in TOWERS.load(lesson.path).state.items() if name.startswith("fusion.out.")
    )


def test_history_pictures_have_weights_that_do_not_depend_on_their_order(playground: Playground, users: Path) -> None:
    towers, history = trained(playground, users), pictures(1, 3)
    one, other = (encoded(playground, towers, history[order], pictures(2, 1)) for order in ([0, 1, 2], [2, 0, 1]))
    assert torch.allclose(one[0].concept.parts[0].tokens, other[0].concept.parts[0].tokens, atol=1e-5)
    assert not torch.equal(one[3], other[3])


def test_another_model_and_another_clip_vision_are_refused(playground: Playground, users: Path, tmp_path: Path) -> None:
    towers = trained(playground, users)
    stranger = load_clip_vision(Path(__file__).parents[2] / "playground" / "weights")
    with pytest.raises(ValueError, match="another CLIP_VISION"):
        encoded(playground._replace(clip_vision=stranger), towers, pictures(1, 1), pictures(2, 1))
    with pytest.raises(ValueError, match="trained for Playground .* the model is SD 1.5"):
        encoded(playground._replace(model=tiny.model()), towers, pictures(1, 1), pictures(2, 1))
    assert "is not in models/concept_towers" in str(TowerEncoder.validate_inputs(["none.safetensors"]))


def test_a_folder_without_sub_folders_is_refused_with_a_sentence(playground: Playground, users: Path) -> None:
    with pytest.raises(PictureError, match="0 sub-folders of at least 2 pictures; 2 are needed"):
        trained(playground, users / STYLES[0])
    with pytest.raises(PictureError, match="No folder was named"):
        trained(playground, Path(" "))


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_training_reaches_every_tensor_of_the_towers(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    captions = ("a hat", "", "", "")
    latents, tokens = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 5, 24, generator=generator)
    copies = tokens[:, None] + 0.1 * torch.randn(4, 2, 5, 24, generator=generator)
    triplets = Triplets(latents, tokens, copies, torch.tensor([0, 0, 1, 1]), captions)
    recipe = TowersRecipe(steps=3, batch_size=4, learning_rate=1e-2, width=16, tokens=3)
    with training_session(tiny.model(family), tiny.clip(family)) as (denoiser, encoder):
        made = train(TowersTask(denoiser, encoder, triplets, recipe, 1))
    start = untrained(made.towers.shape, 1).state_dict()
    same = [name for name, value in made.towers.state_dict().items() if torch.equal(value, start[name])]
    assert made.finished and len(made.losses) == 3 and not same


def test_a_damaged_towers_file_is_refused(playground: Playground, users: Path) -> None:
    towers = trained(playground, users)
    path = file_of(towers)
    kept = TOWERS.load(path)
    TOWERS.save(TowersFile(kept.info, kept.probe * torch.nan, kept.state), path)
    with pytest.raises(ConceptFileError, match="not finite"):
        encoded(playground, towers, pictures(1, 1), pictures(2, 1))
