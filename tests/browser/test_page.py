"""What a designer sees and keeps, in the real page."""

import base64
import json
import shutil
from pathlib import Path

from playwright.sync_api import expect

from tools.places import EXAMPLES, ROOT
from tools.server import Server

from .page import ComfyPage, Json
from .workflows import OURS, changed, only, pictures, read, values

DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "golden_v1.safetensors"
DEFAULTS = [False, True, True, True, ""], [1.0]  # of inputs younger than the workflow: Learn Concept's, Place Concept's
MISSING = "is not in models/concepts"


def dropped(file: Path, kind: str) -> tuple[str, str, str]:
    return file.name, kind, base64.b64encode(file.read_bytes()).decode()


def test_pictures_are_chosen_and_dropped_together_and_stand_in_the_workflow(
    page: ComfyPage, server: Server, tmp_path: Path
) -> None:
    one, two, three, four = pictures(tmp_path / "mine", "one.png", "two.png", "three.jpg", "four.png")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    page.load(only(changed(read(EXAMPLES / "quickstart.json"), ConceptDataset={0: ""}), "ConceptDataset"))
    gallery = page.page.get_by_label("Pictures of this dataset")
    with page.page.expect_file_chooser() as chooser:
        page.page.get_by_role("button", name="Choose pictures").click()
    chooser.value.set_files([one, two])
    expect(gallery.get_by_role("img")).to_have_count(2)
    page.drop(gallery, [dropped(three, "image/jpeg"), dropped(four, ""), dropped(tmp_path / "notes.txt", "text/plain")])
    expect(gallery.get_by_role("img")).to_have_count(4)
    expect(page.texts("left out: notes.txt")).to_be_visible()
    page.page.wait_for_function("[...document.querySelectorAll('li[data-entry] img')].every((one) => one.naturalWidth)")
    (kept,) = values(page.saved()).values()
    assert kept[3].splitlines() == [f"concept_loom/{file.name}" for file in (one, two, three, four)]
    for file in (one, two, three, four):
        assert (server.launch.base / "input" / "concept_loom" / file.name).read_bytes() == file.read_bytes()


def test_a_word_in_no_prompt_is_told_on_the_node_and_still_after_a_reload(page: ComfyPage) -> None:
    quick = changed(read(EXAMPLES / "quickstart.json"), LearnConcept={6: 4}, KSampler={2: 3}, EmptyLatentImage={2: 1})
    page.load(changed(quick, CLIPTextEncode={0: "a photo on the beach"}))
    page.run()
    sentence = page.texts("<mug> did not act")
    expect(sentence).to_be_visible()
    expect(page.page.get_by_role("img", name="Training loss over 4 steps")).to_be_visible()
    said = sentence.inner_text().removeprefix("\u26a0 ")
    page.kept_for_a_reload(said)
    page.reload()
    expect(page.texts(said)).to_be_visible()


def test_a_saved_workflow_keeps_no_sentence_and_one_that_does_is_loaded_right(page: ComfyPage, server: Server) -> None:
    golden = read(DATA / "workflow_v2.json")
    pictures(server.launch.base / "input" / "dropped", "mug.png")
    page.load({**golden, "nodes": [{**one, "widgets_values": with_line(one)} for one in golden["nodes"]]})
    kept = values(page.saved())
    for key, saved in values(golden).items():
        known, younger = kept[key][: len(saved)], kept[key][len(saved) :]
        assert list(map(slashed, known)) == list(map(slashed, saved)) and younger in ([], *DEFAULTS)


def with_line(node: Json) -> list:
    kept = node.get("widgets_values") or []
    had_one = node["type"].startswith(OURS) and node["type"] != f"{OURS}PlaceConcept"
    return [*kept, "an old sentence"] if had_one else kept


def slashed(value: object) -> object:
    return value.replace("\\", "/") if isinstance(value, str) and not value.startswith("{") else value


def test_a_concept_file_is_found_under_another_name_and_asked_for_where_it_is_gone(
    page: ComfyPage, server: Server, models: Path
) -> None:
    shutil.copy(GOLDEN, models / "mug.safetensors")
    golden = changed(read(DATA / "workflow_v1.json"), LoadConcept={0: "mug.safetensors", 2: ""})
    page.refresh()
    page.load(only(golden, "LoadConcept", "SaveConcept"))
    page.run()
    expect(page.texts("Saved as concepts/signed/golden")).to_be_visible()
    workflow = page.saved()
    assert json.loads(values(workflow)[4][2])["word"] == "golden"

    (models / "mug.safetensors").rename(models / "renamed.safetensors")
    page.refresh()
    page.load(workflow)
    assert values(page.saved())[4][0] == "renamed.safetensors"
    assert not page.texts("is missing").count()  # the page's own alarm

    for file in (models / "renamed.safetensors", *(server.launch.base / "output" / "concepts").rglob("*.safetensors")):
        file.unlink()
    page.refresh()
    page.load(workflow)
    sentence = page.texts(MISSING)
    expect(sentence).to_be_visible()
    for part in ("<golden>", "SD 1.5, v1-5-pruned-emaonly.safetensors", "27 KB"):
        assert part in sentence.inner_text()
