"""ComfyUI's own HTTP and WebSocket interface, called in order: queue, read the events, fetch what was made."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp

from .places import RUN
from .refusal import Refusal

Result = TypeVar("Result")
OUTCOMES = ("execution_success", "execution_error", "execution_interrupted")
SEE_LOG = f"Mend what its log names (comfyui.log, of dev.py in a folder of {RUN}), and run this again."
FEATURES = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


class Event(NamedTuple):
    """A message of the server; binary ones (previews) have the type "preview" and their bytes."""

    type: str
    data: dict[str, Any]
    preview: bytes = b""


class PromptRejected(Refusal):
    """The server did not take the prompt; `answer` is its own JSON with error and node_errors."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"ComfyUI rejected the prompt: {json.dumps(answer, indent=1)}")
        self.answer = answer


class PromptFailed(Refusal):
    def __init__(self, event: Event) -> None:
        node, reason = event.data.get("node_type"), event.data.get("exception_message", event.type)
        super().__init__(f"The prompt ended at {node}: {str(reason).strip()}")
        self.event = event


class Client:
    """`seconds` is how long the server may be silent before that is an error."""

    def __init__(self, address: str, seconds: float = 600) -> None:
        self.address, self.seconds, self.id = address, seconds, uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Client:
        try:
            self._run(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._session.close())
        self._loop.close()

    async def _connect(self) -> None:
        self._session = aiohttp.ClientSession(self.address)
        self._socket = await self._session.ws_connect(f"/ws?clientId={self.id}", max_msg_size=0)
        await self._socket.send_json(FEATURES)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, self.seconds))
        except asyncio.TimeoutError as error:  # in Python 3.10 not the builtin one
            raise Refusal(
                f"ComfyUI at {self.address} was silent for {self.seconds:g} s; by then it has to say something. "
                f"{SEE_LOG}"
            ) from error
        except aiohttp.ClientError as error:
            raise Refusal(
                f"ComfyUI at {self.address} did not answer as asked ({error}); it has to until this command ends. "
                f"{SEE_LOG}"
            ) from error

    def get(self, path: str) -> Any:
        return json.loads(self.page(path))

    def page(self, path: str) -> bytes:
        return self._run(self._request("GET", path))

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        return self._run(self._request("POST", path, json=body))

    def fetch(self, file: dict[str, str]) -> bytes:
        """The bytes of one entry of a node's outputs: {"filename", "subfolder", "type"}."""
        return self._run(self._request("GET", "/view", params=file))

    def upload(self, image: Path, subfolder: str = "") -> str:
        """Put a picture into the server's input folder; the result is what a Load Image node takes."""
        form = aiohttp.FormData({"subfolder": subfolder, "overwrite": "true"})
        form.add_field("image", image.read_bytes(), filename=image.name)
        saved = json.loads(self._run(self._request("POST", "/upload/image", data=form)))
        return f"{saved['subfolder']}/{saved['name']}" if saved["subfolder"] else saved["name"]

    async def _request(self, method: str, path: str, **body: Any) -> bytes:
        async with self._session.request(method, path, **body) as answer:
            content = await answer.read()
            if answer.status == 400 and path == "/prompt":
                raise PromptRejected(json.loads(content))
            answer.raise_for_status()
            return content

    def queue(self, prompt: dict[str, Any], **extra_data: Any) -> str:
        body = {"prompt": prompt, "client_id": self.id, "extra_data": extra_data}
        return json.loads(self.post("/prompt", body))["prompt_id"]

    def events(self, prompt_id: str) -> Iterator[Event]:
        """What the server says until this prompt has ended and stands in the history, which is after its outcome."""
        while True:
            event = self._run(self._receive())
            if event.type == "executing" and event.data == {"node": None, "prompt_id": prompt_id}:
                return
            if event.data.get("prompt_id", prompt_id) == prompt_id:
                yield event

    async def _receive(self) -> Event:
        message = await self._socket.receive()
        if message.type == aiohttp.WSMsgType.BINARY:
            return Event("preview", {}, message.data)
        if message.type != aiohttp.WSMsgType.TEXT:
            raise Refusal(
                f"ComfyUI at {self.address} closed the connection; it has to stay until the prompt has ended. {SEE_LOG}"
            )
        content = json.loads(message.data)
        return Event(content["type"], content.get("data") or {})

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue, wait, and give the outputs by node id."""
        return self.outputs(self.finish(self.queue(prompt)))

    def finish(self, prompt_id: str, watch: Callable[[Event], None] = lambda event: None) -> str:
        """Wait for the end; anything but success is an error."""
        outcome = Event("execution_interrupted", {})
        for event in self.events(prompt_id):
            watch(event)
            outcome = event if event.type in OUTCOMES else outcome
        if outcome.type != "execution_success":
            raise PromptFailed(outcome)
        return prompt_id

    def outputs(self, prompt_id: str) -> dict[str, Any]:
        return self.get(f"/history/{prompt_id}")[prompt_id]["outputs"]

    def interrupt(self, prompt_id: str) -> None:
        self.post("/interrupt", {"prompt_id": prompt_id})
