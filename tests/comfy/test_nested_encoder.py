"""The nested encoder on ComfyUI's own classes: trained on a small drawn folder, and drawn with."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management as host
import folder_paths
import numpy as np
import pytest
import torch
from concept_loom.benchmarks.wind_tunnel import Tunnel, cases
from concept_loom.nodes import folders
from concept_loom.nodes.compose import ComposeConcepts
from concept_loom.nodes.files import LoadConcept, SaveConcept
from concept_loom.nodes.nested import NestedAttentionInjector, TrainNestedEncoder
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.nested_encoder import EncoderCourse
from concept_loom.personalization.comfyui.network_course import NetworkWish, teach_network
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.comfyui.vision import Vision
from concept_loom.personalization.nested_encoder.file import ENCODERS
from concept_loom.personalization.nested_encoder.network import untrained
from concept_loom.personalization.nested_encoder.recipe import EncoderRecipe
from concept_loom.personalization.nested_encoder.subjects import Views, subjects_of
from concept_loom.personalization.nested_encoder.training import EncoderTask, train
from concept_loom.playground.judge import load_judge
from concept_loom.playground.model import Playground, load_clip_vision
from concept_loom.playground.model import load as load_playground
from concept_loom.playground.world import PROMPTS, draw_scene, render
from concept_loom.tests.scratch_weights import write_scratch_weights
from PIL import Image
from torch import Tensor

from . import tiny
from .networks import drawn, pictures, use_own_folders

HIDDEN = {"hidden_inputs": {}}


@pytest.fixture(scope="module")
def playground(tmp_path_factory) -> Playground:
    folder = tmp_path_factory.mktemp("weights")
    write_scratch_weights(folder)
    return load_playground(folder)


@pytest.fixture(scope="module")
def mugs(tmp_path_factory) -> Path:
    """Two subjects of two pictures each, and a third one beside them."""
    folder, rng = tmp_path_factory.mktemp("mugs"), np.random.default_rng(5)
    for name in ("red/0", "red/1", "blue/0", "blue/1", "alone"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(render(draw_scene(rng, style="photo")).image).save(folder / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_own_folders("concept_encoders", tmp_path, monkeypatch)


def trained(playground: Playground, folder: Path, **inputs: object) -> str:
    node = TrainNestedEncoder.PREPARE_CLASS_CLONE(HIDDEN)
    given = {"name": "mugs", "seed": 3, "steps": 4, "tokens": 4, "batch_size": 4, "learning_rate": 1e-2}
    with torch.inference_mode():
        return node.execute(*playground, str(folder), "mug", **{**given, **inputs}).result[0]


def file_of(name: str) -> Path:
    path = folders.path_of(name, folders.ENCODERS)
    assert path is not None
    return path


def injected(playground: Playground, encoder: str, images: Tensor, word: str = "it", **given: object):
    node = NestedAttentionInjector.PREPARE_CLASS_CLONE(HIDDEN)
    more = {"class_word": "", "strength": 1.0, **given}
    with torch.inference_mode():
        return node.execute(
            [playground.model],
            [playground.clip],
            [encoder],
            [playground.clip_vision],
            [images],
            [word],
            **{name: [value] for name, value in more.items()},
        ).result


def listening(model) -> list:
    told: list = []
    options = model.model_options["transformer_options"]
    options["concept_loom"] = replace(options["concept_loom"], listeners={"it": told.append})
    return told


def test_from_a_folder_to_a_sampled_picture(playground: Playground, mugs: Path) -> None:
    before = {name: value.clone() for name, value in playground.model.model.state_dict().items()}
    encoder = trained(playground, mugs)
    after = playground.model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    model, clip, placed = injected(playground, encoder, pictures(1, 1))
    told, plain = listening(model), drawn(playground.model, playground.clip, "a photo of a mug")
    assert (drawn(model, clip, "a photo of a <it>") - plain).abs().max() > 1e-4 * plain.std()
    (report,) = told[0]
    assert report.acted == report.sites == len(placed.concept.info.base.sites)
    assert torch.equal(drawn(model, clip, "a photo of a mug"), plain), "the word is the control"


def test_at_strength_0_the_word_is_its_class_word_bit_for_bit(playground: Playground, mugs: Path) -> None:
    encoder = trained(playground, mugs)
    plain = drawn(playground.model, playground.clip, "a photo of a mug")
    model, clip, _ = injected(playground, encoder, pictures(1, 1), strength=0.0)
    assert torch.equal(drawn(model, clip, "a photo of a <it>"), plain)
    model, clip, placed = injected(playground, encoder, pictures(1, 1), strength=0.0, class_word="shoe")
    assert placed.concept.info.class_word == "shoe"
    assert torch.equal(
        drawn(model, clip, "a photo of a <it>"), drawn(playground.model, playground.clip, "a photo of a shoe")
    )


def test_pictures_of_one_subject_stand_side_by_side_in_any_order(playground: Playground, mugs: Path) -> None:
    encoder, shown = trained(playground, mugs), pictures(1, 3)
    one, several, turned = (
        injected(playground, encoder, images)[2].concept for images in (shown[:1], shown, shown[[2, 0, 1]])
    )
    (own,), (all_of_them,) = one.parts, several.parts
    for site, bank in own.rows.items():
        assert bank.shape[0] * 3 == all_of_them.rows[site].shape[0]
        assert torch.allclose(all_of_them.rows[site][: len(bank)], bank, atol=1e-5)
    images = []
    for concept in (several, turned):
        node = ComposeConcepts.PREPARE_CLASS_CLONE(HIDDEN)
        placed = injected(playground, encoder, shown)[2]
        woven = node.execute(playground.model, playground.clip, {"c": replace(placed, concept=concept)}, 1.0)
        model, clip = woven.result
        images.append(drawn(model, clip, "a photo of a <it>"))
    assert torch.allclose(*images, atol=1e-4)


def test_two_injectors_in_a_row_both_act_and_focus_tells(playground: Playground, mugs: Path) -> None:
    encoder = trained(playground, mugs)
    first = injected(playground, encoder, pictures(1, 1))
    alone = drawn(first[0], first[1], "a photo of a <it>")
    model, clip, _ = injected(
        playground._replace(model=first[0], clip=first[1]), encoder, pictures(2, 1), word="other", class_word="shoe"
    )
    told, both = listening(model), drawn(model, clip, "a photo of a <it> and a <other>")
    assert [one.acted == one.sites > 0 for one in told[0]] == [True]
    assert not torch.equal(both, drawn(model, clip, "a photo of a <it> and a shoe"))
    focused = injected(playground, encoder, pictures(1, 1), focus=2.0)
    assert not torch.equal(drawn(focused[0], focused[1], "a photo of a <it>"), alone)


def test_what_was_encoded_is_saved_and_loaded_like_any_concept(playground: Playground, mugs: Path) -> None:
    placed = injected(playground, trained(playground, mugs), pictures(1, 1))[2]
    SaveConcept.execute(placed, "a mug")
    again = LoadConcept.execute("a mug.safetensors").result[0].concept
    assert again.hash == placed.concept.hash and again.info.method == "nested encoder" and len(again.thumbnail) > 0


def test_the_playgrounds_own_encoder_is_listed_and_comes_nearer_than_the_class_word() -> None:
    """On the real weights, by the judge; how much nearer is for the bench to say."""
    folder_paths.folder_names_and_paths["concept_encoders"][0].append(str(folders.OF_THE_PLAYGROUND))
    assert "playground.safetensors" in folders.known_files(folders.ENCODERS)
    playground = load_playground()
    tunnel, gained = Tunnel(playground, load_judge("first"), seeds=1), []
    for case in cases(6, 7, PROMPTS[:3]):
        shown = case.training.float() / 255
        model, clip, placed = injected(playground, "playground.safetensors", shown, class_word=case.class_word)
        made = tunnel.sample(case, f"<{placed.word}>", model, clip), tunnel.sample(case, case.class_word)
        ours, plain = (tunnel.score(case, one).identity for one in made)
        gained.append(ours - plain)
    assert sum(gained) / len(gained) > 0.03


def test_what_was_trained_is_found_again_and_a_class_word_of_its_own_trains_anew(
    playground: Playground, mugs: Path
) -> None:
    first = file_of(trained(playground, mugs))
    assert trained(playground, mugs, name="other") == first.name
    kept = ENCODERS.load(first)
    assert kept.info.recipe["class_word"] == "mug"
    first.unlink()
    assert ENCODERS.load(file_of(trained(playground, mugs, name="again"))).hash == kept.hash
    assert trained(playground, mugs, seed=4) != trained(playground, mugs, seed=3)


def test_stopped_early_it_keeps_what_there_is_and_is_not_found_again(
    playground: Playground, mugs: Path, tmp_path: Path
) -> None:
    def stop(step):
        if step.step == 2:
            raise host.InterruptProcessingException

    model, clip, vae, clip_vision = playground
    wish = NetworkWish(steps=9, batch_size=2)
    course = EncoderCourse(Canvas(model, clip, vae), Vision(clip_vision), subjects_of(mugs, "mug"), wish, "mug")
    lesson = teach_network(course, "stopped", [tmp_path], stop)
    kept = ENCODERS.load(lesson.path)
    assert not lesson.finished and kept.info.steps == 2 and kept.info.key == ""
    assert "stopped early" in lesson.sentences[0] and "3 subjects" in lesson.sentences[0]


def test_another_model_another_clip_vision_and_a_missing_file_are_refused(playground: Playground, mugs: Path) -> None:
    encoder = trained(playground, mugs)
    stranger = load_clip_vision(Path(__file__).parents[2] / "playground" / "weights")
    with pytest.raises(ValueError, match="encoder file was trained with another CLIP_VISION"):
        injected(playground._replace(clip_vision=stranger), encoder, pictures(1, 1))
    with pytest.raises(ValueError, match="trained for Playground .* the model is SD 1.5"):
        injected(playground._replace(model=tiny.model(), clip=tiny.clip()), encoder, pictures(1, 1))
    said = str(NestedAttentionInjector.validate_inputs(["none.safetensors"]))
    assert "is not in models/concept_encoders" in said and "Train Nested Encoder" in said


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_training_reaches_every_tensor_of_the_encoder(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, tokens = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 2, 5, 24, generator=generator)
    views = Views(latents, tokens, torch.tensor([0, 0, 1, 1]), ("a hat", "", "", ""), ("hat", "stuffed toy"))
    recipe = EncoderRecipe(steps=4, batch_size=4, learning_rate=1e-2, width=16, depth=1, tokens=3, rank=2)
    with training_session(tiny.model(family), tiny.clip(family)) as (denoiser, encoder):
        made = train(EncoderTask(denoiser, encoder, views, recipe, 1))
    start = untrained(made.network.shape, 1).state_dict()
    same = [name for name, value in made.network.state_dict().items() if torch.equal(value, start[name])]
    assert made.finished and len(made.losses) == 4 and not same
