"""Learning in the real server that is cancelled or killed, and goes on when it is queued again."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from concept_loom.personalization.checkpoint import load
from concept_loom.personalization.unfinished import FOLDER

from tools.client import Client, Event
from tools.server import Server, launch

from .conftest import provide_weights
from .prompts import Json, learning, node

SECONDS = 15.0  # of one run: long enough for a snapshot, whatever machine this is
WARM_UP = 40  # steps


class Whole(NamedTuple):
    """A run in one go."""

    steps: int
    hash: str


def prompt(steps: int, **changes: object) -> Json:
    return {**learning(**{"steps": steps, "seed": 100, **changes}), "9": node("PreviewImage", images=["3", 2])}


def concepts_of(server: Server) -> Path:
    return server.launch.base / "output" / "concepts"


def snapshots(server: Server) -> list[Path]:
    return list((concepts_of(server) / FOLDER).glob("*.snapshot"))


def newest_hash(server: Server) -> str:
    return load(max(concepts_of(server).glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)).hash


def shown(event: Event, steps: int) -> int:
    """The step that the node shows with this event, 0 for other events."""
    ours = event.type == "progress" and event.data["node"] == "3" and event.data["max"] == steps
    return event.data["value"] if ours else 0


def run(client: Client, asked: Json, watch: Callable[[Event], object] = lambda event: None) -> list[Event]:
    events: list[Event] = []
    client.finish(client.queue(asked), lambda event: (events.append(event), watch(event))[0])
    return events


def sentence(events: list[Event]) -> str:
    return next(e.data["output"]["text"][0] for e in events if e.type == "executed" and e.data["node"] == "3")


@pytest.fixture(scope="module")
def whole(server: Server) -> Whole:
    """As many steps as this machine takes in SECONDS."""
    with Client(server.address, seconds=120) as client:
        times: dict[int, float] = {}
        run(
            client, prompt(WARM_UP), lambda event: times.setdefault(shown(event, WARM_UP), time.perf_counter()) and None
        )
        first, last = min(step for step in times if step), max(times)
        steps = int(SECONDS * (last - first) / (times[last] - times[first]))
        run(client, prompt(steps))
        return Whole(steps, newest_hash(server))


def test_a_killed_run_goes_on_to_the_tensors_of_one_go(whole: Whole, tmp_path: Path) -> None:
    with Server(launch(tmp_path)) as first, Client(first.address) as client:
        provide_weights(first)
        client.queue(prompt(whole.steps))
        while not snapshots(first):
            time.sleep(0.1)
        first.process.kill()
        first.process.wait()
    assert not list(concepts_of(first).glob("*.safetensors"))
    with Server(launch(tmp_path)) as second, Client(second.address, seconds=120) as client:
        provide_weights(second)
        events = run(client, prompt(whole.steps))
        assert "Went on from step" in sentence(events)
        assert min(filter(None, (shown(event, whole.steps) for event in events))) > 2
        assert newest_hash(second) == whole.hash
        assert not snapshots(second)


def test_a_cancelled_run_goes_on_when_it_is_queued_again(whole: Whole, server: Server, client: Client) -> None:
    asked = prompt(whole.steps, placeholder="again")
    for file in (*concepts_of(server).glob("*.safetensors"), *snapshots(server)):  # other tests cancel runs too
        file.unlink()
    client.post("/free", {"unload_models": True, "free_memory": True})
    pressed: list[int] = []

    def press(event: Event) -> None:
        if shown(event, whole.steps) > 10 and not pressed:
            pressed.append(shown(event, whole.steps))
            client.post("/interrupt", {})

    assert "stopped early" in sentence(run(client, asked, press))
    assert len(snapshots(server)) == 1
    assert "Went on from step" in sentence(run(client, asked))
    assert newest_hash(server) == whole.hash and not snapshots(server)
    assert not any(shown(event, whole.steps) for event in run(client, asked))
