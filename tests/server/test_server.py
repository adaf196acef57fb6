from pathlib import Path

import pytest

from tools.client import Client, PromptFailed, PromptRejected
from tools.server import Server

GREY = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 1, "color": 0x808080}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "grey"}},
}
SLOW = {
    "0": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1, "color": 1}},
    **{
        str(i): {"class_type": "ImageBlur", "inputs": {"image": [str(i - 1), 0], "blur_radius": 8, "sigma": 2.0}}
        for i in range(1, 40)
    },
    "40": {"class_type": "PreviewImage", "inputs": {"images": ["39", 0]}},
}
PNG = b"\x89PNG"


def test_a_prompt_of_core_nodes_leaves_a_picture(client: Client) -> None:
    (picture,) = client.run(GREY)["2"]["images"]
    assert client.fetch(picture).startswith(PNG)


def test_a_prompt_reports_each_of_its_nodes(client: Client) -> None:
    wider = {**GREY, "1": {"class_type": "EmptyImage", "inputs": {**GREY["1"]["inputs"], "width": 48}}}
    events = list(client.events(client.queue(wider)))
    assert [event.data["node"] for event in events if event.type == "executing"] == ["1", "2"]


def test_an_uploaded_picture_can_be_loaded(client: Client, tmp_path: Path) -> None:
    (picture,) = client.run(GREY)["2"]["images"]
    (tmp_path / "mine.png").write_bytes(client.fetch(picture))
    name = client.upload(tmp_path / "mine.png", subfolder="pictures")
    outputs = client.run(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
    )
    assert outputs["2"]["images"]


def test_a_prompt_that_was_interrupted_is_not_a_success(client: Client) -> None:
    prompt_id = client.queue(SLOW)
    with pytest.raises(PromptFailed) as failed:
        client.finish(prompt_id, lambda event: client.interrupt(prompt_id) if event.type == "executing" else None)
    assert failed.value.event.type == "execution_interrupted"


def test_a_wrong_value_is_rejected_with_the_servers_reason(client: Client) -> None:
    wrong = {
        **GREY,
        "1": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 16, "batch_size": 1, "color": 0}},
    }
    with pytest.raises(PromptRejected) as rejected:
        client.queue(wrong)
    assert rejected.value.answer["node_errors"]["1"]["errors"][0]["type"] == "value_smaller_than_min"


def test_a_failing_node_raises_with_its_name(client: Client, server: Server) -> None:
    (server.launch.base / "input" / "broken.png").write_bytes(b"no picture")
    failing = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with pytest.raises(PromptFailed, match="LoadImage"):
        client.run(failing)


def test_the_server_has_the_packs_nodes(client: Client) -> None:
    modules = {node["python_module"] for node in client.get("/object_info").values()}
    assert "custom_nodes.concept-loom" in modules
