"""What stays on our nodes through undo, other workflows and other runs, in the real page."""

import json
from pathlib import Path
from uuid import uuid4

from playwright.sync_api import Route, expect

from tools.places import EXAMPLES

from .page import ComfyPage, Json
from .workflows import changed, only, pictures, read, values

CURVE = "Training loss over 4 steps"
LEARNING = ("ConceptDataset", "CaptionPictures", "LearnConcept")


def learning() -> Json:
    quick = changed(read(EXAMPLES / "quickstart.json"), LearnConcept={6: 4})
    return only(named(quick), "LoadPlaygroundModel", *LEARNING, "PreviewImage")


def named(workflow: Json) -> Json:
    return {**workflow, "id": str(uuid4())}


def composing() -> Json:
    quick = named(read(EXAMPLES / "quickstart.json"))
    return only(quick, "LoadPlaygroundModel", *LEARNING, "ComposeConcepts")


def ran(page: ComfyPage, sentence: str, **known: str) -> None:
    """A prompt in which the sampler 9 told a warning of Compose."""
    told = {"prompt_id": uuid4().hex, "reports": [{"word": "mug", "sentence": sentence, "warns": True}]}
    page.hear("concept_loom.report", {"node": "5", "sampler": "9", **told, **known})
    page.hear("executing", None)


def tab(page: ComfyPage) -> str:
    """The name under which the open workflow is found again."""
    return page.page.evaluate("app.extensionManager.workflow.activeWorkflow.filename")


def test_sentences_and_curves_stay_through_an_undo_and_a_change_of_workflow(page: ComfyPage) -> None:
    page.load(learning(), "mine")
    mine = tab(page)
    page.run()
    sentences, curve = page.texts("The file is concepts/"), page.page.get_by_role("img", name=CURVE)
    expect(sentences).to_be_visible()
    expect(curve).to_be_visible()
    page.edit("another title")
    page.undo()
    expect(sentences).to_be_visible()
    expect(curve).to_be_visible()
    page.load(named(only(learning(), "ConceptDataset")), "other")
    expect(sentences).to_have_count(0)
    page.switch(mine)
    expect(sentences).to_be_visible()
    expect(curve).to_be_visible()


def test_a_run_that_tells_the_same_is_no_step_to_undo_and_leaves_those_to_redo(page: ComfyPage) -> None:
    page.load(composing(), "mine")
    ran(page, "<mug> did not act.")
    page.edit("another title")
    page.undo()
    before = page.steps()
    assert before[1] == 1
    ran(page, "<mug> did not act.")
    assert page.steps() == before
    ran(page, "<mug> did not act: it stands in no prompt.")
    expect(page.texts("it stands in no prompt")).to_be_visible()
    assert page.steps() == [before[0] + 1, 0]


def test_a_report_waits_for_its_workflow_and_leaves_the_open_one_alone(page: ComfyPage) -> None:
    one, two = composing(), composing()
    page.load(one, "one")
    first = tab(page)
    page.load(two, "two")
    second, before = tab(page), page.steps()
    ran(page, "<mug> did not act.", workflow=one["id"])
    page.hear("concept_loom.progress", {"node": "5", "text": "12 of 400 steps", "curve": None, "workflow": one["id"]})
    assert page.steps() == before
    page.switch(first)
    expect(page.texts("<mug> did not act.")).to_be_visible()
    assert page.texts("12 of 400 steps").count() == 0
    assert "did not act" in json.dumps(page.saved())
    page.switch(second)
    expect(page.texts("<mug> did not act.")).to_have_count(0)
    assert "did not act" not in json.dumps(page.saved())
    ran(page, "<mug> did not act.", workflow=two["id"])
    expect(page.texts("<mug> did not act.")).to_be_visible()


def test_pictures_that_are_still_being_copied_are_there_when_their_workflow_is_open_again(
    page: ComfyPage, tmp_path: Path
) -> None:
    files = pictures(tmp_path, "one.png", "two.png", "three.png", "four.png")
    quick = named(changed(read(EXAMPLES / "quickstart.json"), ConceptDataset={0: ""}))
    page.load(only(quick, "ConceptDataset"), "mine")
    mine, gallery = tab(page), page.page.get_by_label("Pictures of this dataset")
    held: list[Route] = []
    page.page.route("**/upload/image", lambda route: held.append(route))
    with page.page.expect_file_chooser() as chooser:
        page.page.get_by_role("button", name="Choose pictures").click()
    chooser.value.set_files(files)
    go_on(page, held)
    expect(gallery.get_by_role("img")).to_have_count(1)
    page.load(named(learning()), "other")
    go_on(page, held)
    waiting(page, held)
    page.switch(mine)
    expect(gallery.get_by_role("img")).to_have_count(2)
    page.edit("another title")
    page.undo()
    go_on(page, held)
    expect(gallery.get_by_role("img")).to_have_count(3)
    go_on(page, held)
    expect(gallery.get_by_role("img")).to_have_count(4)
    page.page.unroute("**/upload/image")
    (kept,) = values(page.saved()).values()
    assert kept[3].splitlines() == [f"concept_loom/{file.name}" for file in files]


def waiting(page: ComfyPage, held: list[Route]) -> None:
    """Until the page copies another file."""
    while not held:
        page.page.wait_for_timeout(50)


def go_on(page: ComfyPage, held: list[Route]) -> None:
    waiting(page, held)
    held.pop().continue_()
