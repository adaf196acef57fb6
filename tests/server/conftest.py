"""The ring against a real server: one for the whole session, with this pack in it."""

from collections.abc import Iterator

import pytest

from tools.client import Client
from tools.server import Server, launch


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(launch(tmp_path_factory.mktemp("server"))) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, seconds=120) as connected:
        yield connected
