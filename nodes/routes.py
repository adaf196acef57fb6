"""What the page and other programs ask of the pack outside a prompt."""

from __future__ import annotations

import sys
from dataclasses import asdict

from aiohttp import web

from ..personalization.refusal import ConceptFileError
from ..personalization.remembered import remembered
from . import folders


def register() -> None:
    """Nothing where no server runs, as in tests that only import the pack."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None:
        server.routes.get("/concept_loom/concept")(concept)


async def concept(request: web.Request) -> web.Response:
    """GET ?file=NAME: what a workflow should remember of that file."""
    file = request.query.get("file", "")
    path = folders.path_of(file) if file else None
    if path is None:
        return web.json_response({"error": f"There is no concept file '{file}'."}, status=404)
    try:
        return web.json_response(asdict(remembered(path, file)))
    except ConceptFileError:  # its sentence names the full path, which is nobody else's business
        return web.json_response({"error": f"The file '{file}' is no concept that can be read."}, status=422)
