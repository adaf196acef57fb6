"""What a node tells the page of the client whose prompt runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def tell(event: str, data: Mapping[str, object]) -> None:
    """Sends `data` as `event`; nobody hears it where no server runs, or where a prompt came from no page.

    To nobody in particular the server would send it to every page. `workflow` is the id of the one that was queued, by
    which the page knows whether it is the one that is open; empty where the prompt brought none.
    """
    running = server()
    if running is not None and running.client_id is not None:
        running.send_sync(event, {**data, "workflow": _workflow(running)}, running.client_id)


def server() -> Any:
    """ComfyUI's, or None where none runs."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def _workflow(running: Any) -> str:
    """From the prompt that runs: a node whose result is kept was given the hidden inputs of an earlier one."""
    queue = getattr(running, "prompt_queue", None)  # packs put queues of their own in its place
    prompts = list(getattr(queue, "currently_running", {}).values())  # one at a time
    found = prompts[-1][3] if prompts else None  # number, id, prompt, extra_data, outputs
    for key in ("extra_pnginfo", "workflow", "id"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""
