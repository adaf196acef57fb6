"""What stays on our nodes through undo, other workflows and other runs, in the real page."""

from uuid import uuid4

from playwright.sync_api import expect

from tools.places import EXAMPLES

from .page import ComfyPage, Json
from .workflows import changed, only, read

CURVE = "Training loss over 4 steps"


def learning() -> Json:
    quick = changed(read(EXAMPLES / "quickstart.json"), LearnConcept={6: 4})
    return only(named(quick), "LoadPlaygroundModel", "ConceptDataset", "LearnConcept", "PreviewImage")


def named(workflow: Json) -> Json:
    return {**workflow, "id": str(uuid4())}


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
