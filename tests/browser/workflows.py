"""Workflows and pictures for the page."""

import json
from pathlib import Path

from PIL import Image

from .page import Json

OURS = "ConceptLoom_"


def read(file: Path) -> Json:
    return json.loads(file.read_text(encoding="utf-8"))


def values(workflow: Json) -> dict[int, list]:
    """What each of our nodes keeps."""
    return {one["id"]: one.get("widgets_values") or [] for one in workflow["nodes"] if one["type"].startswith(OURS)}


def changed(workflow: Json, **changes: dict[int, object]) -> Json:
    """`workflow` with some values of the nodes of a type: `KSampler={2: 3}`."""
    for node in workflow["nodes"]:
        for place, value in changes.get(node["type"].removeprefix(OURS), {}).items():
            node["widgets_values"][place] = value
    return workflow


def only(workflow: Json, *types: str) -> Json:
    nodes = [one for one in workflow["nodes"] if one["type"].removeprefix(OURS) in types]
    kept = {one["id"] for one in nodes}
    links = [link for link in workflow["links"] if {link[1], link[3]} <= kept]
    return {**workflow, "nodes": nodes, "links": links}


def pictures(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (64, 48), (60 * number, 90, 30)).save(folder / name)
    return [folder / name for name in names]
