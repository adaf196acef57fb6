"""Towers through the real /prompt: from a folder of pictures to a picture drawn with what they read."""

from pathlib import Path

import pytest
import torch
from concept_loom.personalization.towers.file import TOWERS
from PIL import Image

from tools.client import Client, Event, PromptRejected
from tools.server import Server

from .prompts import Json, drawing, loom, node

HOSTS = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "clip_vision": ["1", 3]}


@pytest.fixture(scope="module")
def users(server: Server) -> str:
    folder = server.launch.base / "input" / "users"
    for user, tint in (("red", (1.0, 0.3, 0.3)), ("blue", (0.3, 0.3, 1.0))):
        (folder / user).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            generator = torch.Generator().manual_seed(number)
            pixels = 255 * torch.rand(64, 64, 3, generator=generator) * torch.tensor(tint)
            Image.fromarray(pixels.byte().numpy()).save(folder / user / f"{number}.png")
    return "users"


def reading(towers: object, users: str) -> Json:
    pictures = {
        str(number): node("LoadImage", image=f"{users}/{name}")
        for number, name in ((4, "red/0.png"), (5, "blue/1.png"))
    }
    own = {"model": ["1", 0], "clip_vision": ["1", 3], "history": ["4", 0], "reference": ["5", 0]}
    return {
        "1": loom("LoadPlaygroundModel"),
        **pictures,
        "6": loom("TowerEncoder", towers=towers, placeholder="mine", class_word="mug", **own),
    }


def training(users: str) -> Json:
    asked = {"folder": users, "name": "towers", "seed": 1, "steps": 2, "batch_size": 2}
    return {"3": loom("TrainTowers", **HOSTS, **asked)}


def watched(client: Client, prompt: Json) -> list[Event]:
    events: list[Event] = []
    client.finish(client.queue(prompt), events.append)
    return events


def test_train_encode_compose_and_draw_in_one_prompt_and_from_the_file_afterwards(
    client: Client, server: Server, users: str
) -> None:
    told = drawing(["6", 2], text="a <mine> on the beach")
    events = watched(client, {**reading(["3", 0], users), **training(users), **told})
    reports = [one for e in events if e.type == "concept_loom.report" for one in e.data["reports"]]
    assert (
        [one["sentence"] for one in reports if one["acted"] == one["sites"] > 0]
        == [one["sentence"] for one in reports]
        != []
    )
    (file,) = (server.launch.base / "output" / "concept_towers").glob("towers*.safetensors")
    assert TOWERS.read_info(file).steps == 2
    text = next(e.data["output"]["text"][0] for e in events if e.type == "executed" and e.data["node"] == "6")
    assert "100.0%" in text
    again = watched(client, {**reading(file.name, users), **drawing(["6", 0], text="a mug in <mine_style>", seed=1)})
    assert [e for e in again if e.type == "concept_loom.report"]


def test_a_file_that_is_not_there_is_refused_before_anything_runs(client: Client, users: str) -> None:
    with pytest.raises(PromptRejected, match="is not in models/concept_towers"):
        client.queue({**reading("none.safetensors", users), **drawing(["6", 0])})


def test_both_nodes_have_help_in_the_page(client: Client) -> None:
    for kind in ("TrainTowers", "TowerEncoder"):
        for language in ("en", "ja"):
            page = client.page(f"/extensions/concept-loom/docs/ConceptLoom_{kind}/{language}.md")
            assert (
                Path(__file__).parents[2].joinpath("web", "docs", f"ConceptLoom_{kind}", f"{language}.md").read_bytes()
                == page
            )
