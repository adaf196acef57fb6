"""What a node tells the page of the client whose prompt runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def tell(event: str, data: Mapping[str, object]) -> None:
    """Sends `data` as `event`; nobody hears it where no server runs, or where a prompt came from no page.

    To nobody in particular the server would send it to every page, whatever workflow is open there.
    """
    running = server()
    if running is not None and running.client_id is not None:
        running.send_sync(event, dict(data), running.client_id)


def server() -> Any:
    """ComfyUI's, or None where none runs."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
