"""What a node tells the page of the client whose prompt runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def tell(event: str, data: Mapping[str, object]) -> None:
    """Sends `data` as `event`; nobody hears it where no server runs, or where a prompt came from no page.

    To nobody in particular the server would send it to every page, whatever workflow is open there.
    """
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(event, dict(data), server.client_id)
