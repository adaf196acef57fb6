"""What became of each concept after sampling, told to the node that composed it: the event `concept_loom.report`."""

from __future__ import annotations

import sys
from dataclasses import asdict

from ..personalization.comfyui.patch import Listener
from ..personalization.report import Report

EVENT = "concept_loom.report"


def teller(node: str) -> Listener:
    """Sends {"node": id, "reports": [...]} to the client whose prompt runs; nobody where no server runs."""

    def tell(reports: tuple[Report, ...]) -> None:
        server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
        if server is not None:
            server.send_sync(EVENT, {"node": node, "reports": [asdict(one) for one in reports]}, server.client_id)

    return tell
