"""The ring against a real server: one for the whole session, with this pack in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.client import Client
from tools.pack import attach_comfyui
from tools.server import Server, launch

PACK = "concept-loom"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(launch(tmp_path_factory.mktemp("server"))) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, seconds=120) as connected:
        yield connected


@pytest.fixture(scope="session", autouse=True)
def weights(server: Server) -> None:
    provide_weights(server)


def provide_weights(server: Server) -> None:
    """Random ones where the trained ones are not there."""
    folder = server.launch.base / "custom_nodes" / PACK / "playground" / "weights"
    if not (folder / "unet.safetensors").exists():
        attach_comfyui(cpu=True)
        from concept_loom.tests.scratch_weights import write_scratch_weights

        write_scratch_weights(folder)


@pytest.fixture
def concepts(server: Server) -> Iterator[Path]:
    """The folder that Learn Concept writes to, empty before each test."""
    folder = server.launch.base / "output" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    yield folder
