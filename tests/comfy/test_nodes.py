"""The nodes' own code, called as ComfyUI calls it: under inference mode, on real models."""

import asyncio
import json
import re
from pathlib import Path

import folder_paths
import pytest
import torch
from concept_loom import comfy_entrypoint
from concept_loom.nodes import folders
from concept_loom.nodes.compose import ComposeConcepts, PlaceConcept
from concept_loom.nodes.dataset import ConceptDatasetNode
from concept_loom.nodes.exchange import ImportConcept
from concept_loom.nodes.files import LoadConcept, SaveConcept
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.nodes.reports import Teller
from concept_loom.nodes.sockets import SPEAKS
from concept_loom.personalization.comfyui.patch import composition_of
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.pictures import PictureError
from concept_loom.personalization.remembered import remembered

from tools.places import ROOT

from . import tiny

NODES = asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
ENGLISH = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def as_nodes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    folders = [str(tmp_path / "models"), str(tmp_path / "output" / "concepts")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "concepts", (folders, {".safetensors"}))
    with torch.inference_mode():
        yield


def compose(*placed: PlacedConcept, strength: float = 1.0, model=None, clip=None):
    wired = {f"concept{n}": one for n, one in enumerate(placed)}
    node = ComposeConcepts.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    return node.execute(model or tiny.model(), clip or tiny.clip(), wired, strength).result


def dataset(**inputs: list):
    return ConceptDatasetNode.execute(**{"folder": [""], **inputs}).result


def _by_name(found) -> list:
    return sorted(found.pictures, key=lambda picture: picture.name)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.GET_SCHEMA().display_name)
def test_every_input_and_output_is_explained_and_translated_as_it_stands(node: type) -> None:
    schema = node.GET_SCHEMA()
    english = ENGLISH[schema.node_id]
    assert schema.search_aliases and english["description"] == schema.description
    for one in schema.inputs:
        assert one.tooltip and english["inputs"][one.id]["tooltip"] == one.tooltip
    assert [one["tooltip"] for one in english["outputs"].values()] == [one.tooltip for one in schema.outputs]


@pytest.mark.skipif(not SPEAKS, reason="ComfyUI 0.18 does not know which nodes only say something")
def test_the_page_has_a_line_for_every_node_that_says_something() -> None:
    listed = (
        (ROOT / "web" / "sentence.mjs").read_text(encoding="utf-8").split("LINE_NODES = new Set([")[1].split("]")[0]
    )
    schemas = [node.GET_SCHEMA() for node in NODES]
    speaking = {one.node_id for one in schemas if one.is_output_node or getattr(one, "has_intermediate_output", False)}
    assert set(re.findall(r'"(\w+)"', listed)) == speaking


def test_images_of_mixed_sizes_and_batches_become_one_dataset() -> None:
    found, report, _ = dataset(images=[torch.rand(2, 32, 48, 3), torch.rand(1, 64, 40, 3)], holdout=["1"])
    assert sorted(picture.size for picture in found.pictures) == [(32, 48), (32, 48), (64, 40)]
    assert len(found.held_out) == 1 and "3 pictures" in report


def test_the_packs_own_pictures_are_there_without_a_folder() -> None:
    found, *_ = dataset(folder=["example"])
    assert len(found.pictures) == len(list(EXAMPLE_PICTURES.glob("*.png"))) == 5


def test_an_own_folder_called_example_goes_before_the_packs() -> None:
    (Path(folder_paths.input_directory) / "example").mkdir(parents=True)
    with pytest.raises(PictureError, match="No picture could be read"):
        dataset(folder=["example"])


def test_masks_of_another_size_are_fitted_and_empty_ones_count_as_none() -> None:
    masks = torch.stack((torch.zeros(64, 64), torch.ones(64, 64)))
    found, *_ = dataset(images=[torch.rand(2, 32, 32, 3)], masks=[masks])
    assert [None if one.mask is None else one.mask.shape for one in _by_name(found)] == [None, (32, 32)]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"images": [torch.rand(2, 32, 32, 3)], "masks": [torch.ones(1, 32, 32)]}, "1 masks came with 2 images"),
        ({"images": [torch.rand(1, 32, 32, 3)], "captions": ["one\ntwo"]}, "2 captions came with 1 pictures"),
        ({"folder": ["nowhere"]}, "There is no folder"),
        ({}, "at least one is needed"),
    ],
)
def test_a_dataset_that_cannot_be_made_is_refused_with_a_sentence(inputs: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataset(**inputs)


def test_a_caption_line_belongs_to_its_picture_and_an_empty_one_to_none() -> None:
    found, *_ = dataset(images=[torch.rand(3, 16, 16, 3)], captions=["a\n\nc"])
    assert {picture.name: picture.caption for picture in found.pictures} == {
        "image 1": "a",
        "image 2": "",
        "image 3": "c",
    }


def test_the_fingerprint_changes_with_the_files_and_not_with_a_missing_folder() -> None:
    folder = Path(folder_paths.input_directory) / "mine"
    assert ConceptDatasetNode.fingerprint_inputs(folder=["mine"]) == []
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"1")
    before = ConceptDatasetNode.fingerprint_inputs(folder=["mine"], images=[None])
    (folder / "a.png").write_bytes(b"22")
    assert before != ConceptDatasetNode.fingerprint_inputs(folder=["mine"], images=[None])


def test_what_another_node_names_does_not_run_the_graph_again_at_every_queue() -> None:
    """The host hands None to a fingerprint then, and takes one that fails for a change."""
    assert ConceptDatasetNode.fingerprint_inputs(folder=[None]) == []
    for node in (LoadConcept, ImportConcept):
        assert node.fingerprint_inputs(file=None) == node.fingerprint_inputs(file=None)


def test_composed_concepts_are_on_the_model_with_multiplied_strength() -> None:
    (placed,) = PlaceConcept.execute(PlacedConcept(tiny.concept("mug")), 0.5, "as learned", 0.1, 0.9).result
    model, clip = compose(placed, PlacedConcept(tiny.concept("cup")), strength=0.5)
    assert [(one.word, one.strength, one.end) for one in composition_of(model)] == [
        ("cup", 0.5, 1.0),
        ("mug", 0.25, 0.9),
    ]
    assert composition_of(model) == clip.composition
    assert composition_of(tiny.model()) == ()


def test_a_placed_concept_can_spare_other_prompts() -> None:
    placed = PlacedConcept(tiny.low_rank(tiny.concept("mug")))
    merged, sparing = (PlaceConcept.execute(placed, 1.0, "as learned", sparing=on).result for on in (False, True))
    assert compose(*merged)[0].patches and not compose(*sparing)[0].patches


@pytest.mark.parametrize(
    ("placed", "wired", "said"),
    [
        (["mug", "mug"], {}, "Two concepts have the word <mug>"),
        (["mug"], {"model": "SDXL", "clip": "SDXL"}, "was learned for SD 1.5"),
        (["mug"], {"clip": "SDXL"}, "The CLIP has the text encoders"),
    ],
)
def test_what_cannot_act_is_refused(placed: list, wired: dict, said: str) -> None:
    models = {name: getattr(tiny, name)(family) for name, family in wired.items()}
    with pytest.raises(ValueError, match=said):
        compose(*(PlacedConcept(tiny.concept(word)) for word in placed), **models)


def test_a_window_without_time_and_a_widened_role_are_refused() -> None:
    placed = PlacedConcept(tiny.concept())
    with pytest.raises(ValueError, match="no time at all"):
        PlaceConcept.execute(placed, 1.0, "as learned", 0.5, 0.5)
    with pytest.raises(ValueError, match="learned as subject"):
        PlaceConcept.execute(placed, 1.0, "style")


def test_a_region_that_is_black_everywhere_is_refused() -> None:
    with pytest.raises(ValueError, match="black everywhere.*Paint a mask, or disconnect"):
        PlaceConcept.execute(PlacedConcept(tiny.concept()), 1.0, "as learned", region=torch.zeros(1, 64, 64))


def test_a_region_is_one_mask_of_the_whole_picture() -> None:
    (placed,) = PlaceConcept.execute(
        PlacedConcept(tiny.concept()), 1.0, "as learned", region=torch.ones(2, 8, 6)
    ).result
    assert placed.region.shape == (8, 6)


def test_a_saved_concept_keeps_its_word_and_what_was_told_and_is_found_with_either_separator() -> None:
    renamed = PlacedConcept(tiny.concept(), placeholder="cup")
    SaveConcept.execute(renamed, "set\\red mug", note="for Ada", license="CC0-1.0")
    SaveConcept.execute(renamed, "set/red mug")
    for file in ("set/red mug.safetensors", "set\\red mug_2.safetensors"):
        assert LoadConcept.validate_inputs(file) is True
        (placed,) = LoadConcept.execute(file).result
        assert placed.word == "cup" and placed.concept.hash == tiny.concept().hash
    assert LoadConcept.execute("set/red mug.safetensors").result[0].concept.info.license == "CC0-1.0"


def test_another_file_put_in_by_a_script_is_the_one_that_is_loaded() -> None:
    """Its workflow still remembers the file that was chosen on the page."""
    for word in ("mug", "cup"):
        SaveConcept.execute(PlacedConcept(tiny.concept(word, word)), f"set/{word}")
    note = remembered(folders.path_of("set/mug.safetensors"), "set/mug.safetensors").text()
    for file, word in (("set\\mug.safetensors", "mug"), ("set/cup.safetensors", "cup")):
        assert LoadConcept.execute(file, remembered=note).result[0].word == word


@pytest.mark.parametrize("name", ["../out", "/abs", "a:b", "..\\out", "what?"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="stay inside output/concepts"):
        SaveConcept.execute(PlacedConcept(tiny.concept()), name)


def test_a_missing_file_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="is not in models/concepts"):
        LoadConcept.validate_inputs("none.safetensors")


def test_folders_of_extra_model_paths_are_kept_and_ours_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "concepts", (["elsewhere"], set()))
    folders.register()
    folders.register()
    found = folder_paths.get_folder_paths("concepts")
    assert found[0] == "elsewhere" and len(found) == 3
    assert folders.all_folders()[-1] == folders.written_to()


def test_a_new_file_is_in_the_list_and_a_picture_is_not() -> None:
    SaveConcept.execute(PlacedConcept(tiny.concept()), "set/new")
    (folders.written_to() / "new.png").write_bytes(b"")
    assert folders.known_files() == ["set/new.safetensors"]


def test_reports_without_a_server_are_no_error() -> None:
    Teller("7", ())(())
