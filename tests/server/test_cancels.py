"""Learning that is cancelled again and again leaves nothing behind: no memory, no queue, no state."""

from pathlib import Path

import psutil

from tools.client import Client, Event
from tools.server import Server

from .prompts import STEPS, Json, learning, node

LONG = 20_000  # steps; it never gets there
WARM, CANCELS = 2, 4
GROWTH = 1.03  # of resident memory: 1.001 was seen, and 1.06 is one copy of the small denoiser kept at each cancel


def prompt(seed: int, steps: int) -> Json:
    return {**learning(seed=seed, steps=steps), "9": node("PreviewImage", images=["3", 2])}


def cancelled(client: Client, seed: int) -> None:
    """A run of its own, cancelled once it has begun to learn."""
    pressed: list[int] = []

    def press(event: Event) -> None:
        learns = event.type == "progress" and event.data["node"] == "3" and event.data["max"] == LONG
        if learns and event.data["value"] >= 3 and not pressed:
            pressed.append(event.data["value"])
            client.post("/interrupt", {})

    client.finish(client.queue(prompt(seed, LONG)), press)
    assert pressed


def resident(server: Server) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def test_many_cancels_leave_memory_and_queue_as_they_were(client: Client, concepts: Path, server: Server) -> None:
    for seed in range(WARM):
        cancelled(client, seed)
    before = resident(server)
    for seed in range(WARM, WARM + CANCELS):
        cancelled(client, seed)
    after = resident(server)
    assert after < GROWTH * before
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    for file in concepts.glob("*.safetensors"):
        file.unlink()
    client.finish(client.queue(prompt(seed=0, steps=STEPS)))
    assert list(concepts.glob("*.safetensors"))
