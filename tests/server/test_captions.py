"""Caption Pictures through the real /prompt, between Concept Dataset and Learn Concept."""

import shutil
from pathlib import Path

import pytest
from concept_loom.personalization.checkpoint import read_identity

from tools.client import Client
from tools.places import ROOT
from tools.server import Server

from .prompts import Json, drawing, learning, loom

PHRASES = "in the snow | on the beach | in the forest\nnext to a ball | next to a plant"


@pytest.fixture(scope="module")
def bare(server: Server) -> str:
    folder = server.launch.base / "input" / "bare"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (ROOT / "example_workflows" / "pictures").glob("*.png"):
        shutil.copy(file, folder)
    return folder.name


def captioning(**asked: object) -> Json:
    wired = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["2", 0]}
    return {
        "4": loom("CaptionPictures", **wired, **{"class_word": "mug", "role": "subject", "phrases": PHRASES, **asked})
    }


def test_bare_pictures_are_captioned_and_learned_under_these(
    client: Client, server: Server, concepts: Path, bare: str
) -> None:
    prompt = {**learning(method="staged fast"), **captioning(), **drawing(["3", 0])}
    prompt["2"]["inputs"]["folder"] = bare
    plain = client.run(prompt)["3"]
    prompt["3"]["inputs"]["dataset"] = ["4", 0]
    told = client.run(prompt)
    lines = told["4"]["text"][0].splitlines()
    assert (
        lines[0] == "5 of 5 pictures had no caption; the model chose." and told["4"]["images"] and told["16"]["images"]
    )
    assert all("a photo of {}" in line for line in lines[1:6])
    files = [concepts / one["concept"][0] for one in (plain, told["3"])]
    assert read_identity(files[0])[1] != read_identity(files[1])[1]
    assert "has a caption" in plain["text"][0] and "has a caption" not in told["3"]["text"][0]


def test_captions_that_are_there_stay(client: Client) -> None:
    prompt = {**learning(), **captioning(), **drawing(["3", 0])}
    prompt["2"]["inputs"]["captions"] = "\n".join(f"mug-{number}.png: number {number}" for number in (5, 4, 3, 2))
    prompt["3"]["inputs"]["dataset"] = ["4", 0]
    (text,) = client.run(prompt)["4"]["text"]
    assert text.startswith("1 of 5 pictures had no caption") and "mug-1.png: a photo of {}" in text
    assert all(f"mug-{number}.png: number {number}\n" in text for number in (2, 3, 4, 5))
