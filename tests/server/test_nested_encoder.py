"""The nested encoder through the real /prompt: from a folder of pictures to a picture of a subject never learned."""

from pathlib import Path

import pytest
import torch
from concept_loom.personalization.nested_encoder.file import ENCODERS
from PIL import Image

from tools.client import Client, Event, PromptRejected
from tools.server import Server

from .prompts import Json, loom, node

HOSTS = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "clip_vision": ["1", 3]}


@pytest.fixture(scope="module")
def mugs(server: Server) -> str:
    folder = server.launch.base / "input" / "mugs"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        pixels = 255 * torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.byte().numpy()).save(folder / f"{number}.png")
    return "mugs"


def training(mugs: str) -> Json:
    asked = {"folder": mugs, "class_word": "mug", "name": "mugs", "seed": 1, "steps": 2, "batch_size": 2}
    return {"3": loom("TrainNestedEncoder", **HOSTS, **asked)}


def injecting(encoder: object, mugs: str, text: str) -> Json:
    own = {"model": ["1", 0], "clip": ["1", 1], "clip_vision": ["1", 3], "images": ["4", 0], "encoder": encoder}
    drawn = {"positive": ["12", 0], "negative": ["13", 0], "latent_image": ["14", 0], "model": ["10", 0]}
    sampler = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "1": loom("LoadPlaygroundModel"),
        "4": node("LoadImage", image=f"{mugs}/0.png"),
        "10": loom("NestedAttentionInjector", **own, placeholder="it", class_word="", strength=1.0),
        "12": node("CLIPTextEncode", clip=["10", 1], text=text),
        "13": node("CLIPTextEncode", clip=["10", 1], text=""),
        "14": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "15": node("KSampler", **drawn, **sampler),
        "16": node("VAEDecode", samples=["15", 0], vae=["1", 2]),
        "17": node("SaveImage", images=["16", 0], filename_prefix="nested"),
    }


def reports(client: Client, prompt: Json) -> list[dict]:
    events: list[Event] = []
    client.finish(client.queue(prompt), events.append)
    told = [event.data for event in events if event.type == "concept_loom.report"]
    assert all(one["node"] == "10" for one in told)
    return [report for one in told for report in one["reports"]]


def test_train_inject_and_draw_in_one_prompt_and_from_the_file_afterwards(
    client: Client, server: Server, mugs: str
) -> None:
    (told,) = reports(client, {**training(mugs), **injecting(["3", 0], mugs, "a photo of <it>")})
    assert told["acted"] == told["sites"] > 0 and told["sentence"].startswith("<it> acted at")
    (file,) = (server.launch.base / "output" / "concept_encoders").glob("mugs*.safetensors")
    assert ENCODERS.read_info(file).steps == 2
    (again,) = reports(client, injecting(file.name, mugs, "a photo of <it> on the beach"))
    assert again["acted"] == again["sites"]
    (silent,) = reports(client, injecting(file.name, mugs, "a photo of a mug"))
    assert silent["acted"] == 0 and "in no prompt" in silent["sentence"]


def test_a_file_that_is_not_there_is_refused_before_anything_runs(client: Client, mugs: str) -> None:
    with pytest.raises(PromptRejected, match="is not in models/concept_encoders"):
        client.queue(injecting("none.safetensors", mugs, "a photo of <it>"))


def test_both_nodes_have_help_in_the_page(client: Client) -> None:
    for kind in ("TrainNestedEncoder", "NestedAttentionInjector"):
        for language in ("en", "ja"):
            page = client.page(f"/extensions/concept-loom/docs/ConceptLoom_{kind}/{language}.md")
            own = Path(__file__).parents[2].joinpath("web", "docs", f"ConceptLoom_{kind}", f"{language}.md")
            assert own.read_bytes() == page
