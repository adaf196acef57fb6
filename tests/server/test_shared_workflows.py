"""Workflows that were saved once are read forever, and keep the concepts that they were made with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import torch
from concept_loom.personalization.checkpoint import read_identity
from PIL import Image
from safetensors.torch import save_file

from tools.client import Client, PromptRejected
from tools.places import ROOT
from tools.server import Server
from tools.workflow import to_prompt

from .prompts import loom

DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "golden_v1.safetensors"
WORKFLOWS = sorted(DATA.glob("workflow_v*.json"))


@pytest.fixture
def models(server: Server, concepts: Path) -> Iterator[Path]:
    folder = server.launch.base / "models" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for file in folder.rglob("*.safetensors"):  # ComfyUI does not get over a folder that is gone
        file.unlink()


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def found(client: Client, file: str, kept: str) -> dict:
    return client.get(f"/concept_loom/found?{urlencode({'file': file, 'remembered': kept})}")


def loading(file: str, remembered: str = "", placeholder: str = "") -> dict:
    """Save Concept shows what was loaded: 2 is it."""
    kept = {"remembered": remembered} if remembered else {}
    return {
        "1": loom("LoadConcept", file=file, placeholder=placeholder, **kept),
        "2": loom("SaveConcept", concept=["1", 0], name="shown"),
    }


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_released_workflow_converts_to_the_same_inputs_and_runs(
    client: Client, models: Path, server: Server, file: Path
) -> None:
    shutil.copy(GOLDEN, models / "under another name.safetensors")
    for name in ("dropped/mug", "users/red/0", "users/red/1", "users/blue/0", "users/blue/1"):
        picture = server.launch.base / "input" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 60).convert("RGB").save(picture)
    embedding = server.launch.base / "models" / "embeddings" / "golden mug.safetensors"
    embedding.parent.mkdir(exist_ok=True)
    save_file({"emb_params": torch.full((1, 768), 0.01)}, embedding)
    prompt = to_prompt(read(file), client.get("/object_info"))
    for key, saved in read(file.with_name(file.name.replace("workflow", "prompt"))).items():
        assert prompt[key]["class_type"] == saved["class_type"]
        assert prompt[key]["inputs"].items() >= saved["inputs"].items()
    outputs = client.run(prompt)
    assert outputs["13"]["images"] and "signed/golden" in outputs["5"]["text"][0]


def test_the_newest_golden_workflow_names_every_node_and_input(client: Client) -> None:
    used = {one["class_type"]: one["inputs"] for one in read(DATA / "prompt_v5.json").values()}
    for key, info in client.get("/object_info").items():
        if info["category"] == "Concept Loom":
            named = {name.partition(".")[0] for name in used[key]}
            asked = {name for group in ("required", "optional") for name in info["input"].get(group, {})}
            assert named == asked


@pytest.mark.parametrize("name", ["set/red mug.safetensors", "set\\red mug.safetensors"])
def test_either_path_separator_finds_a_file(client: Client, models: Path, name: str) -> None:
    (models / "set").mkdir(exist_ok=True)
    shutil.copy(GOLDEN, models / "set" / "red mug.safetensors")
    assert client.run(loading(name))["2"]["text"]


def test_the_page_is_told_what_to_remember_of_a_file(client: Client, models: Path) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    kept = client.get("/concept_loom/concept?file=mug.safetensors")
    assert kept["hash"] == read_identity(GOLDEN)[1] and kept["size"] == GOLDEN.stat().st_size
    assert kept["file"] == "mug.safetensors" and kept["word"] == "golden"
    assert kept["base"] == "SD 1.5, v1-5-pruned-emaonly.safetensors"


def test_a_remembered_concept_is_found_under_any_name_and_keeps_its_word(
    client: Client, models: Path, concepts: Path
) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    kept = {**client.get("/concept_loom/concept?file=mug.safetensors"), "word": "grail"}
    (concepts / "deep").mkdir(exist_ok=True)
    (models / "mug.safetensors").rename(concepts / "deep" / "renamed.safetensors")
    client.run(loading("mug.safetensors", json.dumps(kept)))
    assert read_identity(concepts / "shown.safetensors")[0].placeholder == "grail"


def test_a_missing_concept_is_asked_for_once_by_all_that_is_known_of_it(client: Client, models: Path) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    kept = json.dumps(client.get("/concept_loom/concept?file=mug.safetensors"))
    (models / "mug.safetensors").unlink()
    with pytest.raises(PromptRejected) as rejected:
        client.queue(loading("mug.safetensors", kept))
    (said,) = [error["details"] for error in rejected.value.answer["node_errors"]["1"]["errors"]]
    for part in ("<golden>", "SD 1.5, v1-5-pruned-emaonly.safetensors", " KB", "Copy it to models/concepts"):
        assert part in said
    assert found(client, "mug.safetensors", kept) == {"error": said}


def test_the_page_is_told_the_name_that_a_concept_has_here(client: Client, models: Path, concepts: Path) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    kept = json.dumps(client.get("/concept_loom/concept?file=mug.safetensors"))
    assert found(client, "mug.safetensors", kept) == {"file": "mug.safetensors"}
    (concepts / "deep").mkdir(exist_ok=True)
    (models / "mug.safetensors").rename(concepts / "deep" / "renamed.safetensors")
    assert found(client, "mug.safetensors", kept) == {"file": "deep/renamed.safetensors"}


@pytest.mark.parametrize("note", ["nonsense", "[]", '{"file": 1}', '{"file": "a", "hash": "b"}'])
def test_a_damaged_note_counts_as_none(client: Client, models: Path, note: str) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    assert client.run(loading("mug.safetensors", note))["2"]["text"]


def test_other_tensors_under_the_remembered_name_are_said(client: Client, models: Path) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    kept = {**client.get("/concept_loom/concept?file=mug.safetensors"), "hash": "0" * 64}
    said = client.run(loading("mug.safetensors", json.dumps(kept)))["1"]["text"][0]
    assert "is not the file of this workflow" in said
