"""Check This ComfyUI over the API: every promise holds in the ComfyUI of the tests."""

import json

from tools.client import Client


def test_every_promise_holds_in_this_comfyui(client: Client) -> None:
    found = json.loads(client.post("/concept_loom/check", {}))
    assert found["holds"], found
    assert len(found["promises"]) == 6 and found["ComfyUI"] and found["torch"]
