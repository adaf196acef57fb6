"""ComfyUI's page in a real browser: what is done on it, what it says, and what it asks of other machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Request

Json = dict[str, Any]
PATIENCE = 120_000  # milliseconds for anything, a learning of a few steps among it; a busy machine is no failure
READY = "window.app?.extensionManager?.workflow?.activeWorkflow && window.app.extensionManager.spinner === false"
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # a fresh user sees the Templates dialog first
    "Comfy.PromptFilename": False,
}
SWITCH = """async (tab) => {
    const found = app.extensionManager.workflow.openWorkflows.find((one) => one.filename === tab);
    await app.loadGraphData(JSON.parse(JSON.stringify(found.activeState)), true, true, found);
}"""
EDIT = """(title) => {
    app.rootGraph.nodes[0].title = title;
    app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
}"""
STEPS = """(({ undoQueue, redoQueue }) => [undoQueue.length, redoQueue.length])(
    app.extensionManager.workflow.activeWorkflow.changeTracker,
)"""
HEAR = "([event, detail]) => void app.api.dispatchEvent(new CustomEvent(event, { detail }))"
DROP = """async (element, files) => {
    const transfer = new DataTransfer();
    for (const [name, type, text] of files) {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type }));
    }
    for (const kind of ["dragenter", "dragover", "drop"]) {
        element.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""


class Seen(NamedTuple):
    """Without what differs from run to run: ports, queries and hashes in names."""

    text: str
    place: str


class ComfyPage:
    """`complaints` are the console's errors and what no handler caught; `strangers` requests to other machines."""

    def __init__(self, browser: Browser, address: str, vue: bool, ours: bool = True) -> None:
        self.address = address
        self.complaints: set[Seen] = set()
        self.strangers: set[Seen] = set()
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, base_url=address)
        self.context.request.post("/settings", data={**SETTINGS, "Comfy.VueNodes.Enabled": vue})
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.page.on("console", self._logged)
        self.page.on("pageerror", lambda error: self.complaints.add(Seen(_plain(str(error)), "")))
        self.page.on("request", self._asked)
        if not ours:
            self.page.route("**/api/extensions", _without_ours)
        self.open()

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_function(READY)

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_function(READY)

    def refresh(self) -> None:
        """What the key R does: ask anew which files there are."""
        self.page.evaluate("app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")

    def settle(self) -> None:
        """Until it complains of nothing new: for a fresh user it asks for the models of its own first workflow."""
        before = -1
        while before != len(self.complaints):
            before = len(self.complaints)
            self.page.wait_for_timeout(3000)

    def load(self, workflow: Json, tab: str | None = None) -> None:
        """In a tab of its own where that has a name."""
        self.page.evaluate("async ([it, tab]) => void (await app.loadGraphData(it, true, true, tab))", [workflow, tab])

    def switch(self, tab: str) -> None:
        """What a click on the tab does."""
        self.page.evaluate(SWITCH, tab)

    def edit(self, title: str) -> None:
        """Something that can be undone: another title for the first node."""
        self.page.evaluate(EDIT, title)

    def undo(self) -> None:
        self.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")

    def steps(self) -> list[int]:
        """How many there are to undo, and how many to redo."""
        return self.page.evaluate(STEPS)

    def hear(self, event: str, detail: Json | None) -> None:
        """As if the server had sent it."""
        self.page.evaluate(HEAR, [event, detail])

    def saved(self) -> Json:
        """The file that Export gives."""
        with self.page.expect_download() as download:
            self.page.evaluate("void app.extensionManager.command.execute('Comfy.ExportWorkflow')")
        return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))

    def run(self) -> None:
        self.page.get_by_test_id("queue-button").click()

    def texts(self, text: str) -> Locator:
        return self.page.get_by_text(text)

    def drop(self, onto: Locator, files: Iterable[tuple[str, str, str]]) -> None:
        """`files` are name, type and content in base64."""
        onto.evaluate(DROP, list(files))

    def kept_for_a_reload(self, text: str) -> None:
        """Wait until the page has it among its drafts."""
        self.page.wait_for_function("(text) => JSON.stringify(localStorage).includes(text)", arg=text)

    def close(self) -> None:
        self.context.close()

    def _logged(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.add(Seen(_plain(message.text), _path(message.location.get("url", ""))))

    def _asked(self, request: Request) -> None:
        where = urlsplit(request.url)
        if where.scheme in ("http", "https", "ws", "wss") and where.netloc != urlsplit(self.address).netloc:
            self.strangers.add(Seen(where.netloc, where.path))


def _without_ours(route: Any) -> None:
    others = [file for file in route.fetch().json() if "concept-loom" not in file]
    route.fulfill(json=others)


def _plain(text: str) -> str:
    return re.sub(r"https?://\S+", "", text.partition("\n")[0])


def _path(url: str) -> str:
    return re.sub(r"-[\w-]{8}\.js$", ".js", urlsplit(url).path)
