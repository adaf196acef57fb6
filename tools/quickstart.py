"""What `dev.py demo` does once the server runs: the quickstart workflow, its sheet and the learned concept."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from .client import Client
from .places import EXAMPLES, OUTPUT
from .progress import Progress
from .refusal import Refusal
from .workflow import to_prompt

WORKFLOW = EXAMPLES / "quickstart.json"


@dataclass(frozen=True)
class Quickstart:
    """None: the workflow's own pictures, words and model."""

    images: Path | None
    class_word: str | None
    placeholder: str | None
    checkpoint: Path | None


def run(client: Client, base: Path, request: Quickstart) -> list[Path]:
    """Leaves its results in output/ and gives their paths."""
    prompt = to_prompt(_workflow(), client.get("/object_info"))
    prompt_id = client.queue(prompt)
    client.finish(prompt_id, Progress(prompt).show)
    OUTPUT.mkdir(exist_ok=True)
    return [_sheet(client, client.outputs(prompt_id)), *_concepts(base)]


def _workflow() -> dict[str, object]:
    if not WORKFLOW.exists():
        raise Refusal(f"{WORKFLOW} is missing; the demo needs it. Restore it from the repository.")
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def _sheet(client: Client, outputs: dict[str, dict[str, list[dict[str, str]]]]) -> Path:
    pictures = [picture for node in outputs.values() for picture in node.get("images", ())]
    saved = [picture for picture in pictures if picture["type"] == "output"]
    if not saved:
        raise Refusal("The quickstart ran but saved no picture. It needs a Save Image node: restore the workflow.")
    sheet = OUTPUT / "quickstart.png"
    sheet.write_bytes(client.fetch(saved[-1]))
    return sheet


def _concepts(base: Path) -> list[Path]:
    learned = sorted((base / "output" / "concepts").glob("**/*.safetensors"))
    return [Path(shutil.copy2(file, OUTPUT)) for file in learned]
