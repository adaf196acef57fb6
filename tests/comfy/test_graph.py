"""The graph of a prompt, as far as a report needs it."""

import pytest
from comfy_execution.graph import DynamicPrompt
from concept_loom.personalization.comfyui.graph import Graph


@pytest.mark.parametrize("value", [[{"x": 1}, {"x": 2}], [[0, 0], [1, 1]], [0.5, 0.5], ["1", "0"]])
def test_a_widgets_list_of_two_is_no_link(value) -> None:
    """The page wraps lists, and the host unwraps them before nodes run; an error here would end its worker."""
    sampler = {"class_type": "KSampler", "inputs": {"model": ["1", 0], "steps": value, "negative": ["gone", 0]}}
    checkpoint = {"class_type": "CheckpointLoaderSimple", "inputs": {}}
    graph = Graph(DynamicPrompt({"1": checkpoint, "2": sampler}))
    assert graph.model_from("2") == {("2", -1), ("1", 0)}
