import pytest

from tools.refusal import Refusal
from tools.workflow import to_prompt

OBJECT_INFO = {
    "Load": {"input": {"required": {"name": [["a", "b"]], "image": ["COMBO", {"image_upload": True}]}}},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "extra": ["FLOAT", {"forceInput": True}],
            },
            "optional": {"denoise": ["FLOAT", {}]},
        }
    },
    "Learn": {"input": {"required": {"seed": ["INT", {"control_after_generate": False}], "steps": ["INT", {}]}}},
    "Compose": {
        "input": {"required": {"concepts": ["COMFY_AUTOGROW_V3", {"template": {}}], "strength": ["FLOAT", {}]}}
    },
}


def workflow(*nodes: dict, links: list | None = None) -> dict:
    return {"nodes": list(nodes), "links": links or []}


def node(key: int, kind: str, values: list, **slots: int) -> dict:
    inputs = [{"name": name.replace("__", "."), "link": link} for name, link in slots.items()]
    return {"id": key, "type": kind, "mode": 0, "inputs": inputs, "widgets_values": values}


@pytest.mark.parametrize(
    ("kind", "saved", "named"),
    [
        ("Load", ["a", "x.png", "image"], {"name": "a", "image": "x.png"}),
        ("Sample", [7, "randomize", 20, 0.5], {"seed": 7, "steps": 20, "denoise": 0.5}),
        ("Sample", [7, "fixed", 20], {"seed": 7, "steps": 20}),
        ("Learn", [7, 20], {"seed": 7, "steps": 20}),
    ],
)
def test_saved_values_get_the_names_of_their_widgets(kind: str, saved: list, named: dict) -> None:
    assert to_prompt(workflow(node(1, kind, saved)), OBJECT_INFO)["1"] == {"class_type": kind, "inputs": named}


def test_a_link_replaces_the_value_of_its_widget() -> None:
    saved = workflow(node(1, "Learn", [0, 5]), node(2, "Learn", [7, 20], steps=9), links=[[9, 1, 0, 2, 1, "INT"]])
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == {"seed": 7, "steps": ["1", 0]}


def test_growing_inputs_keep_their_dotted_names() -> None:
    saved = workflow(
        node(1, "Learn", [0, 5]), node(2, "Compose", [0.8], concepts__concept0=3), links=[[3, 1, 0, 2, 0, "CONCEPT"]]
    )
    assert to_prompt(saved, OBJECT_INFO)["2"]["inputs"] == {"strength": 0.8, "concepts.concept0": ["1", 0]}


def test_notes_vanish() -> None:
    note = {"id": 4, "type": "MarkdownNote", "widgets_values": ["hello"]}
    assert to_prompt(workflow(node(1, "Learn", [0, 5]), note), OBJECT_INFO).keys() == {"1"}


@pytest.mark.parametrize("wrong", [{"type": "Unknown"}, {"mode": 2}, {"mode": 4}])
def test_what_cannot_be_converted_is_refused(wrong: dict) -> None:
    with pytest.raises(Refusal, match="id 1"):
        to_prompt(workflow({**node(1, "Learn", [0, 5]), **wrong}), OBJECT_INFO)
