"""What is told of a MODEL that is not wired through must be true and not disturb the host."""

import logging

import pytest
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import reset_progress_state
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_custom_sampler import CFGGuider
from concept_loom.nodes import wiring
from concept_loom.nodes.compose import ComposeConcepts
from concept_loom.nodes.reports import TELLERS, Teller
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.patch import weave_model

import nodes

from . import tiny
from .neighbours import guided
from .test_prompt_to_picture import encode, mug, sample


def test_no_error_leaves_the_hosts_progress(monkeypatch, caplog) -> None:
    """The host calls outside of its own try: an error here would end the worker, and nothing more would run."""

    def failing() -> None:
        raise TypeError("unhashable type: 'dict'")

    teller = Teller("7", ())  # who listens, so that there is something to tell
    monkeypatch.setattr(wiring.Graph, "running", failing)
    watching = wiring.Wiring()
    watching.start_handler("3", None, "prompt")
    with caplog.at_level(logging.ERROR, "concept_loom"):
        watching.finish_handler("3", None, "prompt")
    assert teller.node == "7"
    (record,) = caplog.records
    assert "node 3" in record.getMessage() and record.exc_info


def test_a_composition_that_comes_from_the_cache_is_the_one_that_counts_again() -> None:
    """With ComfyUI's larger caches the MODEL of an earlier strength draws, though a later one was composed since."""
    earlier, later = Teller("8", ()), Teller("8", ())
    assert TELLERS["8"] is later
    earlier(())
    assert TELLERS["8"] is earlier and earlier.heard_of("", "")


PROMPT = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
    "10": {"class_type": "Compose", "inputs": {"model": ["1", 0], "clip": ["1", 1]}},
    "11": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["10", 1]}},
    "14": {"class_type": "KSampler", "inputs": {"model": ["10", 0], "positive": ["11", 0], "negative": ["11", 0]}},
}


@pytest.fixture
def composed(monkeypatch):
    ComposeConcepts.GET_SCHEMA()
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Compose", ComposeConcepts)


def drawn(draw, model: str, monkeypatch):
    """What Compose is told where node 14 draws so, wired to that node's MODEL."""
    sampler = {**PROMPT["14"], "inputs": {**PROMPT["14"]["inputs"], "model": [model, 0]}}
    reset_progress_state("prompt", DynamicPrompt({**PROMPT, "14": sampler}))
    told: list = []
    teller = Teller("10", (mug(),))
    monkeypatch.setattr(teller, "send", lambda reports, *_: told.extend(reports))
    with CurrentNodeContext("prompt", "11"):
        words = encode(weave_clip(tiny.clip(), (mug(),)), "a <mug>")
    watching = wiring.Wiring()
    watching.start_handler("14", None, "prompt")
    with CurrentNodeContext("prompt", "14"):
        draw({"1": tiny.model(), "10": weave_model(tiny.model(), (mug(),), teller)}[model], words, words)
    watching.finish_handler("14", None, "prompt")
    (report,) = told
    return report


@pytest.mark.usefixtures("composed")
@pytest.mark.parametrize(
    ("model", "denoise", "cause"), [("10", 1.0, ""), ("10", 0.0, "steps"), ("1", 1.0, "model"), ("1", 0.0, "model")]
)
def test_a_sampler_that_takes_no_step_is_not_accused_of_another_model(model, denoise, cause, monkeypatch) -> None:
    report = drawn(lambda *given: sample(*given, steps=1, denoise=denoise), model, monkeypatch)
    assert report.cause == cause and (not cause or "KSampler (14)" in report.sentence)


@pytest.mark.usefixtures("composed")
def test_a_schedule_without_a_step_is_told_as_such(monkeypatch) -> None:
    def draw(model, positive, negative):
        guided(CFGGuider.execute(model, positive, negative, 4.0)[0], torch.zeros(1))

    report = drawn(draw, "10", monkeypatch)
    assert report.cause == "steps" and "KSampler (14) took no step" in report.sentence
