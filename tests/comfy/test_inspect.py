"""Evaluate Concept and Strength Sheet on the playground, as ComfyUI calls them."""

import json
from dataclasses import replace
from pathlib import Path

import comfy.sample
import folder_paths
import numpy as np
import pytest
import torch
from concept_loom.nodes.compose import PlaceConcept
from concept_loom.nodes.files import LoadConcept, SaveConcept
from concept_loom.nodes.inspect import EvaluateConcept, StrengthSheet
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.personalization.asked import Asked, asked
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.family import base_of
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.comfyui.studio import Job, drawn, located, projects, seen
from concept_loom.personalization.comfyui.trial import texts_of
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.concept import Concept, ConceptInfo
from concept_loom.personalization.dataset import ConceptDataset, dataset_of
from concept_loom.personalization.parts import ContextRows
from concept_loom.personalization.pictures import read_pictures
from concept_loom.personalization.preview import Sitting
from concept_loom.playground.model import CHANNELS, Playground, load
from concept_loom.playground.world import draw_scene, render

from . import tiny

PROMPTS = "a photo of <word> on the beach\na photo of <mug> at night"
SITTING = Sitting(seed=3, steps=2)


@pytest.fixture(scope="module")
def playground() -> Playground:
    return load()


@pytest.fixture(scope="module")
def dataset() -> ConceptDataset:
    return dataset_of(read_pictures(EXAMPLE_PICTURES)[0], 1)


@pytest.fixture(scope="module")
def loud(playground: Playground, dataset: ConceptDataset) -> Concept:
    """A random concept: nobody has learned it, and it changes every picture."""
    base, generator = base_of(playground.model), torch.Generator().manual_seed(0)
    info = ConceptInfo("mug", "mug", "[V] mug", "mug", "subject", base, "quick", data_hash=dataset.hash)
    rows = {one.site: torch.randn(1, base.context_width, generator=generator) for one in base.sites}
    return Concept(info, {"l": 0.3 * torch.randn(1, 128, generator=generator)}, (ContextRows(rows),))


@pytest.fixture(autouse=True)
def as_nodes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "concepts", ([str(tmp_path / "output" / "concepts")], {".safetensors"})
    )
    with torch.inference_mode():
        yield


def evaluated(playground: Playground, concept: Concept, dataset: ConceptDataset, **changes):
    inputs = {"clip_vision": playground.clip_vision, "prompts": PROMPTS, "seeds": 2, "steps": 2, **changes}
    made = EvaluateConcept.execute(*playground[:3], PlacedConcept(concept), dataset, **inputs)
    sheet, table, data = made.result
    assert made.ui["text"] == (table,) and len(made.ui["images"]) == 1
    return sheet, table, json.loads(data)


def sheet_of(playground: Playground, concept: Concept, *reference, **changes):
    inputs = {"prompts": PROMPTS, "highest": 1.0, "columns": 3, "steps": 2, **changes}
    return StrengthSheet.execute(*playground[:3], PlacedConcept(concept), *reference, **inputs).result


def test_strength_0_is_bit_for_bit_the_class_words_picture(playground: Playground, loud: Concept) -> None:
    silent, acting = (PlacedConcept(loud, strength) for strength in (0.0, 1.0))
    jobs = [
        Job("a photo of <mug> on the beach", (silent,), SITTING),
        Job("a photo of mug on the beach", (), SITTING),
        Job("a photo of <mug> on the beach", (acting,), SITTING),
    ]
    zero, word, one = drawn(Canvas(*playground[:3]), jobs)
    assert torch.equal(zero, word) and not torch.equal(one, word)


def test_strength_0_is_the_class_word_also_for_a_style_without_one(playground: Playground, loud: Concept) -> None:
    info = replace(loud.info, phrase="[V] style", class_word="", role="style")
    silent = PlacedConcept(replace(loud, info=info), 0.0)
    (prompt,) = asked("a mug at night, in <word>", silent)
    jobs = [Job(prompt.text, (silent,), SITTING), Job(prompt.plain, (), SITTING)]
    zero, word = drawn(Canvas(*playground[:3]), jobs)
    assert torch.equal(zero, word)


@pytest.mark.parametrize("sparing", [True, False])
def test_low_rank_layers_act_where_they_do_in_a_sampler(playground: Playground, loud: Concept, sparing: bool) -> None:
    layers = tiny.low_rank(replace(loud, embeddings={"l": loud.embeddings["l"] / 30}), loud=0.1)
    here, otherwise = (PlacedConcept(layers, sparing=one) for one in (sparing, not sparing))
    text, sitting = "a photo of <mug> on the beach", Sitting(seed=3, steps=8, guidance=4.0)
    ours, other = drawn(Canvas(*playground[:3]), [Job(text, (one,), sitting) for one in (here, otherwise)])
    model, clip = weave_model(playground.model, (here,)), weave_clip(playground.clip, (here,))
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(one)) for one in (text, ""))
    latent = torch.zeros(1, CHANNELS, 8, 8)
    noise = comfy.sample.prepare_noise(latent, sitting.seed)
    how = (sitting.steps, sitting.guidance, "euler", "normal")
    latents = comfy.sample.sample(model, noise, *how, positive, negative, latent, seed=sitting.seed, disable_pbar=True)
    (theirs,) = playground.vae.decode(latents)
    assert 3 * (ours - theirs).abs().mean() < (other - theirs).abs().mean()  # their steps are spaced otherwise


def test_what_is_composed_on_model_and_clip_already_changes_nothing(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    placed = (PlacedConcept(loud, 0.3),)
    woven = playground._replace(model=weave_model(playground.model, placed), clip=weave_clip(playground.clip, placed))
    bare, composed = (evaluated(one, loud, dataset, seeds=1)[0] for one in (playground, woven))
    assert torch.equal(bare, composed)


def test_no_weight_is_changed(playground: Playground, loud: Concept, dataset: ConceptDataset) -> None:
    networks = (playground.model.model, playground.clip.cond_stage_model, playground.clip_vision.model)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    evaluated(playground, loud, dataset, seeds=1)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())


def test_every_prompt_and_seed_is_drawn_with_both_words_and_scored(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    sheet, table, data = evaluated(playground, loud, dataset)
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and sheet.min() >= 0 and sheet.max() <= 1
    assert [one["prompt"] for one in data["prompts"]] == PROMPTS.replace("<word>", "<mug>").split("\n")
    assert all(isinstance(one["identity"], float) for one in (*data["prompts"], *data["overall"]))
    assert data["under"]["concept"] == loud.hash and data["under"]["steps"] == 2 and data["under"]["strength"] == 1
    assert "layers" in data["under"]["encoder"]
    assert "against 1 held-out picture\n" in table and "What this cannot tell" in table


def test_a_concept_at_strength_0_has_the_class_words_scores(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    (silent,) = PlaceConcept.execute(PlacedConcept(loud), 0.0, "as learned").result
    made = EvaluateConcept.execute(*playground[:3], silent, dataset, playground.clip_vision, PROMPTS, steps=2)
    floor, ours, _ = json.loads(made.result[2])["overall"]
    assert {**ours, "name": ""} == {**floor, "name": ""}


def test_the_same_seed_gives_the_same_sheet_and_another_one_another(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    first, again, other = (evaluated(playground, loud, dataset, seed=seed, seeds=1)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_subject_is_compared_cut_out_of_its_pictures_and_a_style_as_a_whole(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    _, table, data = evaluated(playground, loud, dataset, seeds=1)
    assert all(isinstance(one["whole"], float) and one["whole"] != one["identity"] for one in data["prompts"])
    assert "cut out" in table
    assert all(one["leak"] is not None for one in data["prompts"]) and "what surrounded it in training" in table
    style = replace(loud, info=replace(loud.info, role="style"))
    _, table, data = evaluated(playground, style, dataset, seeds=1)
    assert all(one["whole"] is one["leak"] is None for one in data["prompts"]) and "cut out" not in table
    assert "is not found in its pictures" in data["withheld"]["leak"]


def test_soft_masks_lie_on_the_thing(playground: Playground) -> None:
    rng = np.random.default_rng(6)
    scenes = [draw_scene(rng, second="none", companion="none", style="photo", split="bench") for _ in range(8)]
    inside, chance = [], []
    for scene in scenes:
        shown = render(scene)
        picture = torch.from_numpy(shown.image)[None].float() / 255
        mask = located(Canvas(*playground[:3]), picture, scene.subject.instance.class_name)
        true = torch.nn.functional.interpolate(torch.from_numpy(shown.mask)[None, None].float(), (8, 8), mode="area")
        inside.append(float((mask * true).sum() / mask.sum()))
        chance.append(float(true.mean()))
    assert sum(inside) > 2 * sum(chance)


def test_without_eyes_there_are_pictures_and_no_number(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    _, table, data = evaluated(playground, loud, dataset, clip_vision=None, seeds=1)
    assert "No CLIP_VISION is connected" in table and data["overall"] == [] and set(data["withheld"]) >= {"identity"}
    _, concept, sentence = sheet_of(playground, loud, dataset, None)
    assert "No strength is recommended" in sentence and concept.strength == concept.concept.info.strength == 1


def test_overfitting_is_not_judged_on_other_pictures_or_without_held_out_ones(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    other = dataset_of(dataset.pictures, 2)
    _, table, data = evaluated(playground, loud, other, seeds=1)
    assert "learned from other pictures" in table
    assert [data["overall"][1][score] for score in ("gap", "leak", "copies")] == [None] * 3
    none = dataset_of(dataset.pictures, 0)
    own = replace(loud, info=replace(loud.info, data_hash=none.hash))
    _, table, data = evaluated(playground, own, none, seeds=1)
    assert "overfitting cannot be judged" in table and data["overall"][1]["gap"] is None


def test_an_image_encoder_that_was_not_trained_with_the_clip_gives_no_text_score(
    playground: Playground, loud: Concept
) -> None:
    prompts = [Asked("", f"a photo of a mug {place}") for place in ("on the beach", "in the forest", "at night")]
    strangers = torch.nn.functional.normalize(torch.ones(3, 64), dim=1)
    assert "64" in texts_of(playground.clip, prompts, strangers, 1)[1]
    alike = torch.nn.functional.normalize(torch.ones(3, 128), dim=1)
    assert texts_of(playground.clip, prompts, alike, 1)[0] is None


def test_a_clip_without_a_projection_is_known() -> None:
    clip = tiny.fresh_clip()
    assert projects(clip)
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    with torch.no_grad():
        weight.copy_(torch.eye(len(weight)))
    assert not projects(clip)


def test_vectors_of_pictures_have_length_1(playground: Playground) -> None:
    vectors = seen(playground.clip_vision, torch.rand(9, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    assert vectors.shape[0] == 9 and torch.allclose(vectors.norm(dim=1), torch.ones(9), atol=1e-5)


def test_prompts_without_the_word_and_concepts_of_other_models_are_refused(
    playground: Playground, loud: Concept, dataset: ConceptDataset
) -> None:
    with pytest.raises(ValueError, match="does not hold the concept's word"):
        evaluated(playground, loud, dataset, prompts="a red bag")
    with pytest.raises(ValueError, match="was learned for SD 1.5"):
        evaluated(playground, tiny.concept(), dataset)


def test_the_recommended_strength_is_written_into_the_concept_and_used_from_there(
    playground: Playground, loud: Concept, dataset: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concept_loom.personalization.comfyui import strengths
    from concept_loom.personalization.strength import Advice

    monkeypatch.setattr(strengths, "advised", lambda rungs, own: Advice(rungs[1].strength, "half"))
    sheet, concept, _ = sheet_of(playground, loud, dataset, playground.clip_vision)
    assert sheet.shape[0] == 1 and concept.strength == concept.concept.info.strength == 0.5
    SaveConcept.execute(concept, "rec")
    (loaded,) = LoadConcept.execute("rec.safetensors").result
    assert loaded.strength == 0.5 and loaded.concept.hash == loud.hash
    assert PlaceConcept.execute(loaded, 1.0, "as learned").result[0].strength == 0.5
    assert PlaceConcept.execute(loaded, 0.0, "as learned").result[0].strength == 0.0


def test_each_strength_is_judged_by_pictures_of_its_own(
    playground: Playground, loud: Concept, dataset: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concept_loom.personalization.comfyui import strengths
    from concept_loom.personalization.strength import Advice

    heard = []
    monkeypatch.setattr(strengths, "advised", lambda rungs, own: heard.extend(rungs) or Advice(None, ""))
    _, concept, _ = sheet_of(playground, loud, dataset, playground.clip_vision, seeds=2)
    assert [(one.strength, len(one.identity)) for one in heard] == [(0, 4), (0.5, 4), (1, 4)]
    assert len({one.likeness for one in heard}) == 3 and concept.strength == 1


def test_strengths_of_a_subject_are_judged_by_the_thing_cut_out(
    playground: Playground, loud: Concept, dataset: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concept_loom.personalization.comfyui import strengths
    from concept_loom.personalization.strength import Advice

    judged = []
    monkeypatch.setattr(strengths, "advised", lambda rungs, own: judged.append(rungs) or Advice(None, "none"))
    sheet_of(playground, loud, dataset, playground.clip_vision)
    monkeypatch.setattr(strengths, "word_of_thing", lambda placed: "")  # as for a style
    sheet_of(playground, loud, dataset, playground.clip_vision)
    for cut, whole in zip(*judged, strict=True):
        assert not torch.equal(cut.identity, whole.identity)
        assert cut.text is whole.text is None or torch.equal(cut.text, whole.text)


@pytest.mark.parametrize(("held_out", "known", "by_training"), [(1, True, False), (0, True, True), (0, False, False)])
def test_strengths_that_are_judged_by_training_pictures_say_so(
    playground: Playground, loud: Concept, held_out: int, known: bool, by_training: bool
) -> None:
    shown = dataset_of(read_pictures(EXAMPLE_PICTURES)[0], held_out)
    concept = replace(loud, info=replace(loud.info, data_hash=shown.hash if known else "others"))
    *_, sentence = sheet_of(playground, concept, shown, playground.clip_vision)
    assert ("are those that it was learned from" in sentence) is by_training
