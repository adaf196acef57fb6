"""The ring in the real page: one server, one Chromium, one page for each way that it draws nodes."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tools.commands import BROWSERS
from tools.server import Server, launch

from ..server.conftest import provide_weights
from .page import PATIENCE, ComfyPage

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-quic"),
]

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(launch(tmp_path_factory.mktemp("browser"))) as running:
        provide_weights(running)
        yield running


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    """Closed with the module: while it runs, no other event loop can."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"None of {', '.join(BROWSERS)} is installed.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def baseline(browser: Browser, server: Server) -> ComfyPage:
    """The page as it is without our scripts: what it complains of and asks for by itself."""
    page = ComfyPage(browser, server.address, vue=True, ours=False)
    page.saved()
    page.settle()
    page.close()
    return page


@pytest.fixture(scope="module", params=[False, True], ids=["LiteGraph", "Nodes 2.0"])
def opened(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[ComfyPage]:
    page = ComfyPage(browser, server.address, vue=request.param)
    yield page
    page.close()


@pytest.fixture
def page(opened: ComfyPage, baseline: ComfyPage) -> Iterator[ComfyPage]:
    """After each test: no complaint and no stranger that the page without us has not."""
    yield opened
    assert opened.complaints <= baseline.complaints
    assert opened.strangers <= baseline.strangers


@pytest.fixture
def models(server: Server) -> Iterator[Path]:
    folder = server.launch.base / "models" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for file in folder.rglob("*.safetensors"):
        file.unlink()
