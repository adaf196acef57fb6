"""What `dev.py demo` leaves behind, made by the server of this ring in a few steps."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from concept_loom.personalization.checkpoint import load
from concept_loom.personalization.grid import CELL
from PIL import Image

from tools import quickstart
from tools.client import Client
from tools.pack import attach_comfyui
from tools.places import EXAMPLES
from tools.server import Server, launch
from tools.sheet import Row

SEED, STEPS, SAMPLING = 41, 4, 2  # a seed of its own: nothing comes from the cache of another test's prompt
OWN = quickstart.Quickstart(images=None, class_word=None, placeholder=None, checkpoint=None)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo leaves what it made, with the quickstart cut to a few steps."""
    workflow = json.loads((EXAMPLES / "quickstart.json").read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node["type"] == "ConceptLoom_LearnConcept":
            node["widgets_values"][5:7] = SEED, STEPS
        elif node["type"] == "KSampler":
            node["widgets_values"][2] = SAMPLING
    (tmp_path / "short.json").write_text(json.dumps(workflow), encoding="utf-8")
    monkeypatch.setattr(quickstart, "WORKFLOW", tmp_path / "short.json")
    monkeypatch.setattr(quickstart, "OUTPUT", tmp_path / "output")
    return tmp_path / "output"


def on_the_playground(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real checkpoint is gigabytes: the demo goes its way, and the graph keeps the model that it has."""
    adapted = quickstart.adapted
    monkeypatch.setattr(quickstart, "adapted", lambda prompt, asked: adapted(prompt, replace(asked, checkpoint=None)))


def test_the_demo_leaves_a_sheet_a_concept_and_with_a_checkpoint_a_report(
    client: Client, server: Server, concepts: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = server.launch.base
    drawn, kept = quickstart.run(client, base, OWN)
    with Image.open(drawn) as sheet:
        assert drawn.parent == output and sheet.width > 5 * CELL and sheet.height > 5 * CELL
    assert load(kept).info.steps <= STEPS and [file.name for file in concepts.glob("*.safetensors")] == [kept.name]

    client.post("/free", {"unload_models": True, "free_memory": True})
    on_the_playground(monkeypatch)
    *_, written = quickstart.run(client, base, replace(OWN, checkpoint=Path("mine.safetensors")))
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["learned_before"] and report["seconds"] is None and report["base"]["family"] == "Playground"
    assert any(one.startswith("CLIP scores") for one in report["not_verified"])
    assert report["peak_bytes"] is None and any(one.startswith("peak memory") for one in report["not_verified"])


def test_own_pictures_are_scored_by_the_playgrounds_image_encoder(
    client: Client, server: Server, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = []
    save = quickstart.save_sheet
    monkeypatch.setattr(quickstart, "save_sheet", lambda head, of, path: (rows.extend(of), save(head, of, path)))
    asked = replace(OWN, images=EXAMPLES / "pictures", class_word="mug", placeholder="own")
    drawn, _ = quickstart.run(client, server.launch.base, asked)
    assert drawn.exists()
    assert [row.title.partition(":")[0] for row in rows if row.note.startswith("identity ")] == [
        "your pictures",
        "class word",
        "learned",
    ]


@pytest.mark.slow
def test_the_demo_learns_draws_and_reports_on_a_full_size_checkpoint(output: Path, tmp_path: Path) -> None:
    attach_comfyui(cpu=True)
    from concept_loom.benchmarks.full_size import checkpoint

    asked = replace(OWN, checkpoint=checkpoint("SD 1.5", tmp_path / "models"), class_word="mug", placeholder="mine")
    with Server(launch(tmp_path, models=asked.models())) as running, Client(running.address, seconds=1800) as client:
        drawn, kept, written = quickstart.run(client, tmp_path, asked)
    report = json.loads(written.read_text(encoding="utf-8"))
    assert drawn.exists() and load(kept).info.base.family == report["base"]["family"] == "SD 1.5"
    assert report["seconds"] > 0 and report["peak_bytes"] > 2e9 and not report["learned_before"]
