"""Pictures as they come: uploaded through ComfyUI's own route, listed on the node, read by the real server."""

import io
from pathlib import Path

import pytest
from PIL import Image

from tools.client import Client, PromptFailed
from tools.server import Server

SUBFOLDER = "concept_loom"


def drawn(folder: Path, name: str, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
    colour = (40 * seed % 256, 90, 200 - 30 * seed)
    image = Image.effect_noise(size, 60).convert("RGB")
    image.paste(colour, (0, 0, size[0] // 2, size[1]))
    image.save(folder / name)
    return folder / name


def reading(pictures: str, **inputs: object) -> dict:
    inputs = {"folder": "", "pictures": pictures, **inputs}
    return {
        "1": {"class_type": "ConceptLoom_ConceptDataset", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}},
    }


def test_uploaded_pictures_are_read_and_shown_as_they_will_be_learned(client: Client, tmp_path: Path) -> None:
    names = ["a b.png", "猫.jpg", "wide.webp", "tall.png"]
    entries = [client.upload(drawn(tmp_path, name, seed), SUBFOLDER) for seed, name in enumerate(names)]
    (tmp_path / "text.jpg").write_text("no picture")
    entries.append(client.upload(tmp_path / "text.jpg", SUBFOLDER).replace("/", "\\"))
    outputs = client.run(reading("\n".join(entries)))
    (report,) = outputs["1"]["text"]
    assert "\n4 pictures" in report and "text.jpg is called a picture" in report
    (on_node,), (sheet,) = outputs["1"]["images"], outputs["2"]["images"]
    assert Image.open(io.BytesIO(client.fetch(sheet))).size == (1024, 1024)
    assert Image.open(io.BytesIO(client.fetch(on_node))).size == (1024, 1024)


def test_a_picture_that_was_written_anew_is_read_anew(client: Client, tmp_path: Path) -> None:
    entry = client.upload(drawn(tmp_path, "changing.png", 1), SUBFOLDER)
    (first,) = client.run(reading(entry))["2"]["images"]
    before = client.fetch(first)
    client.upload(drawn(tmp_path, "changing.png", 5, (64, 64)), SUBFOLDER)
    (second,) = client.run(reading(entry))["2"]["images"]
    assert client.fetch(second) != before


def test_two_hundred_pictures_are_read(client: Client, server: Server) -> None:
    many = server.launch.base / "input" / "many"
    many.mkdir()
    for seed in range(200):
        drawn(many, f"{seed}.jpg", seed, (64 + seed, 64))
    (report,) = client.run(reading("", folder="many"))["1"]["text"]
    assert "\n200 pictures" in report


@pytest.mark.parametrize(
    ("pictures", "said"),
    [("concept_loom/gone.png", "gone.png is not there"), ("../comfyui.log", "lies outside"), ("", "at least one")],
)
def test_without_a_picture_the_run_ends_in_a_sentence(client: Client, pictures: str, said: str) -> None:
    with pytest.raises(PromptFailed, match=said):
        client.run(reading(pictures))


def test_the_page_is_told_of_the_widget_and_the_api_of_a_string(client: Client) -> None:
    info = client.get("/object_info/ConceptLoom_ConceptDataset")["ConceptLoom_ConceptDataset"]
    kind, options = info["input"]["optional"]["pictures"]
    assert (kind, options["widgetType"]) == ("STRING", "CONCEPT_LOOM_PICTURES")
    assert list(info["input"]["optional"])[-1] == "pictures"  # saved workflows name widgets by their place
    assert "CONCEPT_LOOM_PICTURES" in client.page("/extensions/concept-loom/pictures.js").decode()
