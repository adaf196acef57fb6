"""What the page and other programs ask of the pack outside a prompt."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ..personalization.comfyui.machine import machine
from ..personalization.refusal import ConceptFileError
from ..personalization.remembered import remembered
from . import files, folders
from .check import NODE
from .page import server

POLL_SECONDS = 0.2


def register() -> None:
    """Nothing where no server runs, as in tests that only import the pack."""
    running = server()
    if running is not None:
        running.routes.get("/concept_loom/concept")(concept)
        running.routes.get("/concept_loom/found")(found)
        running.routes.post("/concept_loom/check")(check)


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


async def found(request: web.Request) -> web.Response:
    """GET ?file=NAME&remembered=NOTE: the name that a workflow's concept file has here, or what to do without it."""
    asked = request.query.get("file", ""), request.query.get("remembered", "")
    try:
        here = await asyncio.to_thread(files.found, *asked)  # it may have to read the headers of all files
    except ValueError as missing:
        return web.json_response({"error": str(missing)})  # an answer, and no error on the page's console
    return web.json_response({"file": folders.name_of(here.path)})


async def check(request: web.Request) -> web.Response:
    """POST: queues the node behind what is queued, waits, and answers with versions and promises."""
    running = server()
    prompt_id, number = str(uuid.uuid4()), running.number
    running.number += 1
    prompt = {"1": {"class_type": NODE, "inputs": {}, "_meta": {"title": "Check This ComfyUI"}}}
    running.prompt_queue.put((number, prompt_id, prompt, {}, ["1"], {}))
    while True:
        waits = _waits_or_runs(running.prompt_queue, prompt_id)  # asked first: what ends goes into the history at once
        if history := running.prompt_queue.get_history(prompt_id=prompt_id):
            return _answer(history[prompt_id])
        if not waits:
            return web.json_response({"error": "The check was removed from the queue before it ran."}, status=409)
        await asyncio.sleep(POLL_SECONDS)


def _waits_or_runs(queue: Any, prompt_id: str) -> bool:
    running, waiting = queue.get_current_queue()
    return any(item[1] == prompt_id for item in (*running, *waiting))


def _answer(run: dict[str, Any]) -> web.Response:
    found = run["outputs"].get("1", {}).get("promises", [])
    about = {"holds": bool(found) and all(one["held"] for one in found), "promises": found, **machine()}
    failed = [
        data["exception_message"].strip() for event, data in run["status"]["messages"] if event == "execution_error"
    ]
    return web.json_response({**about, **({"error": failed[0]} if failed else {})}, status=500 if failed else 200)
