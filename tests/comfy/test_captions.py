"""Caption Pictures on the playground that people get, whose world is known, and on the families of the host."""

from dataclasses import replace

import comfy.model_management as host
import numpy as np
import pytest
import torch
from concept_loom.benchmarks.wind_tunnel import Case, cases
from concept_loom.nodes.captions import CaptionPictures
from concept_loom.nodes.dataset import ConceptDatasetNode
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.personalization.captioner import Captioner, predictions
from concept_loom.personalization.comfyui import captions
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.captions import captioned
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.dataset import ConceptDataset, dataset_of
from concept_loom.personalization.pictures import Picture
from concept_loom.personalization.surroundings import groups_of
from concept_loom.playground.model import WEIGHTS, load

from . import tiny

WORLD = 9  # of the instances that are asked about here


@pytest.fixture(scope="module")
def canvas() -> Canvas:
    with torch.inference_mode():
        return Canvas(*load(WEIGHTS)[:3])


@pytest.fixture(scope="module")
def case() -> Case:
    return cases(1, WORLD)[0]


@pytest.fixture(scope="module")
def found(canvas: Canvas, case: Case) -> ConceptDataset:
    return captioned(canvas, case.dataset(), case.class_word, "subject")


def clauses(caption: str) -> list[str]:
    """ "a photo of {} in the snow, on the left" -> its phrases."""
    return [part.strip() for part in caption.removeprefix("a photo of {}").split(",") if part.strip()]


def parts(dataset: ConceptDataset) -> list[list[str]]:
    return [clauses(picture.caption) for picture in dataset.pictures]


def test_the_model_says_of_the_worlds_pictures_what_is_so(case: Case, found: ConceptDataset) -> None:
    told, true = parts(found), parts(case.dataset(captioned=True))
    assert sum(map(len, told)) >= 0.8 * sum(map(len, true))
    wrong = [phrase for said, right in zip(told, true, strict=True) for phrase in said if phrase not in right]
    assert len(wrong) <= 1


def test_captions_that_are_there_stay_and_pixels_and_split_too(canvas: Canvas, case: Case, found) -> None:
    bare = case.dataset()
    first, *rest = bare.pictures
    mine = replace(bare, pictures=(replace(first, caption="my own {}"), *rest), held_out=frozenset((2,)))
    made = captioned(canvas, mine, case.class_word, "subject")
    assert made.pictures[0].caption == "my own {}" and made.held_out == {2}
    assert [one.caption for one in made.pictures[1:]] == [one.caption for one in found.pictures[1:]]
    assert all(one.pixels is other.pixels for one, other in zip(made.pictures, bare.pictures, strict=True))


def test_progress_goes_to_the_end_and_a_click_on_cancel_breaks_it_off(canvas: Canvas, case: Case) -> None:
    seen: list[tuple[int, int]] = []
    few = replace(case.dataset(), pictures=case.dataset().pictures[:2])
    lines = "in the snow | on the beach\non the left | on the right"
    captioned(canvas, few, case.class_word, "subject", lines, lambda done, every: seen.append((done, every)))
    every = 2 * predictions(groups_of(lines, "Playground", "subject"))
    assert {of for _, of in seen} == {every} and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[0][0] == 0 and every - captions.SIZES[0] <= seen[-1][0] < every

    def cancel(done: int, every: int) -> None:
        if done:
            host.interrupt_current_processing()

    with pytest.raises(host.InterruptProcessingException):
        captioned(canvas, few, case.class_word, "subject", lines, cancel)
    assert not host.processing_interrupted()


def test_without_a_class_word_what_is_said_is_so_and_of_a_style_what_is_in_it(canvas: Canvas, case: Case) -> None:
    told, true = parts(captioned(canvas, case.dataset(), " ", "subject")), parts(case.dataset(captioned=True))
    assert sum(map(len, told)) >= 0.6 * sum(map(len, true))
    assert sum(phrase not in right for said, right in zip(told, true, strict=True) for phrase in said) <= 1
    few = replace(case.dataset(), pictures=case.dataset().pictures[:1])
    (picture,) = captioned(canvas, few, "", "style", f"a {case.class_word} | a wug").pictures
    assert picture.caption == f"a {case.class_word}, {{}}"


def test_memory_that_runs_out_leads_to_single_predictions_and_then_to_advice(
    canvas: Canvas, case: Case, found: ConceptDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Captioner.phrases

    def scarce(self: Captioner, *about):
        if self.batch_size > least:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return own(self, *about)

    monkeypatch.setattr(Captioner, "phrases", scarce)
    first = replace(case.dataset(), pictures=case.dataset().pictures[:1])
    least = 1
    assert captioned(canvas, first, case.class_word, "subject").pictures[0].caption == found.pictures[0].caption
    least = 0
    with pytest.raises(MemoryError, match=r"too little memory .* Room for one prediction is needed\. Close"):
        captioned(canvas, first, case.class_word, "subject")


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_every_family_is_asked_in_its_own_way(family: str) -> None:
    """Random weights: nothing is known, but every phrase goes through text encoders, pooled text and UNet."""
    with torch.inference_mode():
        model = tiny.fresh_model(family)
    told: list[int] = []
    with training_session(model, tiny.clip(family)) as session:
        captioner = Captioner(*session, lambda found: ", ".join(("a photo of a mug", *found)), 4, told.append)
        groups = (("on grass", "in the snow"), ("at night",))
        said = captioner.phrases(torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(1)), groups)
    assert sum(told) == predictions(groups)
    assert all(phrase in group for phrase, group in zip(said, groups, strict=False)) or len(said) < 2


def test_the_node_captions_the_examples_pictures_and_its_text_may_be_corrected_and_pasted(canvas: Canvas) -> None:
    with torch.inference_mode():
        wanted, *_ = ConceptDatasetNode.execute([str(EXAMPLE_PICTURES)]).result
        bare = wanted.uncaptioned
        node = CaptionPictures.execute(*canvas, bare, "mug", "subject")
    made, text = node.result
    assert node.ui["text"][0].startswith("5 of 5 pictures had no caption") and text in node.ui["text"][0]
    assert text.splitlines() == [f"{one.name}: {one.caption}" for one in sorted(made.pictures, key=lambda p: p.name)]
    corrected = text.replace(text.splitlines()[2], text.splitlines()[2].split(":")[0] + ": a photo of {} on the moon")
    shuffled = "\n".join(reversed(corrected.splitlines()))
    with torch.inference_mode():
        pasted, *_ = ConceptDatasetNode.execute([str(EXAMPLE_PICTURES)], captions=[shuffled]).result
        again = CaptionPictures.execute(*canvas, pasted, "mug", "subject")
    assert sorted(pasted.captions()) == sorted(corrected.splitlines())
    assert again.result[0] is pasted and again.ui["text"][0].startswith("All 5 pictures had captions")


def test_a_picture_of_another_shape_is_captioned_too(canvas: Canvas) -> None:
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (96, 64, 3), dtype=np.uint8))
    dataset = dataset_of([Picture("tall", pixels), Picture("square", pixels[:64])])
    assert all(one.caption.startswith("a photo of {}") for one in captioned(canvas, dataset, "mug", "both").pictures)
