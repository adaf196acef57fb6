"""What `dev.py demo` does once the server runs: learn through the quickstart workflow, then draw the proof.

The proof is a sheet: the pictures, the class word, all coarse words, the learned word, and the same prompts with the
word removed. Every picture on it comes from the server's /prompt.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from . import pack, report
from .client import Client
from .places import EXAMPLES, OUTPUT
from .progress import Progress
from .refusal import Refusal
from .sheet import Row, save_sheet
from .workflow import to_prompt

WORKFLOW = EXAMPLES / "quickstart.json"
FULL_CAPTION = "a light blue mug with brown dots and a ring"  # of the pack's own five pictures
SCENES = ("on the beach, on the left", "in the forest", "in the snow, next to a ball", "at night", "in the meadow")
PHOTO, STYLED = "a photo of {} {}", "a watercolor painting of {} {}"
PEOPLES = ("on a beach", "in a forest", "on a wooden table")  # scenes for checkpoints, where a picture takes longer
Prompt = dict[str, Any]


@dataclass(frozen=True)
class Quickstart:
    """None: the workflow's own pictures, words and model."""

    images: Path | None
    class_word: str | None
    placeholder: str | None
    checkpoint: Path | None
    clip_vision: Path | None = None

    def models(self) -> dict[str, Path]:
        """The folders of the user's own model files, by ComfyUI's name for their kind."""
        files = {"checkpoints": self.checkpoint, "clip_vision": self.clip_vision}
        # Of a link, not of what it points to: that has another name than the prompt asks for.
        return {kind: file.absolute().parent for kind, file in files.items() if file}

    @property
    def is_own(self) -> bool:
        """What the playground's judge, who knows only its own world, cannot score."""
        return bool(self.images or self.checkpoint)

    @property
    def sees(self) -> bool:
        """The playground brings an image encoder, a checkpoint none."""
        return bool(self.clip_vision or not self.checkpoint)

    @property
    def templates(self) -> tuple[str, ...]:
        """Captions with {} for the subject."""
        scenes = PEOPLES if self.checkpoint else SCENES
        return tuple(
            (STYLED if one is scenes[-1] and not self.checkpoint else PHOTO).format("{}", one) for one in scenes
        )


@dataclass
class Graph:
    """The quickstart's prompt, and which of its nodes do what."""

    prompt: Prompt
    model: str = field(init=False)
    dataset: str = field(init=False)
    caption: str = field(init=False)
    learn: str = field(init=False)
    compose: str = field(init=False)
    sampler: str = field(init=False)
    preview: str = field(init=False)

    def __post_init__(self) -> None:
        self.dataset, self.learn = self._one("ConceptLoom_ConceptDataset"), self._one("ConceptLoom_LearnConcept")
        self.caption = self._one("ConceptLoom_CaptionPictures")
        self.compose, self.sampler = self._one("ConceptLoom_ComposeConcepts"), self._one("KSampler")
        self.preview = self._one("PreviewImage")
        self.model = self.prompt[self.learn]["inputs"]["model"][0]

    def _one(self, kind: str) -> str:
        found = [key for key, node in self.prompt.items() if node["class_type"] == kind]
        if len(found) != 1:
            raise Refusal(f"The quickstart workflow has {len(found)} nodes {kind}; one is needed. Restore the file.")
        return found[0]

    def learning(self) -> Prompt:
        """The part of the graph that ends at the concept."""
        kept, due = set(), [self.preview]
        while due:
            key = due.pop()
            kept.add(key)
            links = [value for value in self.prompt[key]["inputs"].values() if isinstance(value, list)]
            due += [link[0] for link in links if link[0] not in kept]
        return {key: self.prompt[key] for key in kept}


def run(client: Client, base: Path, request: Quickstart) -> list[Path]:
    """Leaves its results in output/ and gives their paths."""
    graph = Graph(adapted(to_prompt(_workflow(), client.get("/object_info")), request))
    began = time.monotonic()
    outputs = _do(client, graph.learning())
    told = outputs[graph.learn]
    learning = report.Learning(told["text"][0], time.monotonic() - began, told["peak_bytes"][0])
    concept = base / "output" / "concepts" / told["concept"][0]
    info = _header(concept)
    rows = _drawn(client, graph, request, info)
    OUTPUT.mkdir(exist_ok=True)
    kept = Path(shutil.copy2(concept, OUTPUT))
    scores = _clip_scores(client, graph, request) if request.is_own and request.sees else None
    made = [_sheet(rows, info, request, scores), kept]
    if request.checkpoint:
        device = client.get("/system_stats")["devices"][0]["name"]
        made.append(report.write(OUTPUT / "report.json", report.measured(info, learning, device, scores)))
    return made


def _workflow() -> dict[str, object]:
    if not WORKFLOW.exists():
        raise Refusal(f"{WORKFLOW} is missing; the demo needs it. Restore it from the repository.")
    return json.loads(WORKFLOW.read_text(encoding="utf-8"))


def adapted(prompt: Prompt, request: Quickstart) -> Prompt:
    """The workflow's prompt with the user's pictures, words and checkpoint in it."""
    graph = Graph(prompt)
    learn = prompt[graph.learn]["inputs"]
    learn["class_word"] = request.class_word or learn["class_word"]
    prompt[graph.caption]["inputs"]["class_word"] = learn["class_word"]
    learn["placeholder"] = request.placeholder or "_".join(learn["class_word"].split())
    if request.images:
        prompt[graph.dataset]["inputs"]["folder"] = str(request.images.resolve())
    if request.checkpoint:
        name = request.checkpoint.name
        prompt[graph.model] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
        learn["dataset"] = [graph.dataset, 0]  # captions of its own are not measured there, and take a CPU an hour
    return prompt


def _do(client: Client, prompt: Prompt) -> dict[str, Any]:
    prompt_id = client.queue(prompt)
    client.finish(prompt_id, Progress(prompt).show)
    return client.outputs(prompt_id)


def _header(concept: Path) -> dict[str, Any]:
    """What the file says about itself (README, "File format")."""
    data = concept.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["concept_loom"])


def _nouns(request: Quickstart, info: dict[str, Any]) -> dict[str, str]:
    """Row title -> what stands for the subject."""
    word, class_word = info["placeholder"], info["class_word"]
    full = {} if request.images else {f"full caption: {FULL_CAPTION}": FULL_CAPTION}
    return {
        f"class word: a {class_word}": f"a {class_word}",
        **full,
        f"learned: <{word}>": f"<{word}>",
        _removed(word): "",
    }


def _removed(word: str) -> str:
    return f"the same prompts without <{word}>"


def _drawn(client: Client, graph: Graph, request: Quickstart, info: dict[str, Any]) -> list[Row]:
    """All cells in one prompt, through the same composed MODEL and CLIP."""
    kind = info["base"]["family"], info["base"]["prediction"]
    side = {"Playground": 64, "SDXL": 1024}.get(kind[0], 768 if kind == ("SD 2", "v") else 512)
    asked = {
        title: [" ".join(template.format(noun).split()) for template in request.templates]
        for title, noun in _nouns(request, info).items()
    }
    prompt = {key: node for key, node in graph.prompt.items() if key in graph.learning() or key == graph.compose}
    prompt["negative"] = _encoded(graph, "")
    prompt["latent"] = {"class_type": "EmptyLatentImage", "inputs": {"width": side, "height": side, "batch_size": 1}}
    for row, texts in enumerate(asked.values()):
        for column, text in enumerate(texts):
            prompt |= _cell(graph, f"{row}-{column}", text, seed=column)
    outputs = _do(client, prompt)
    rows = [
        Row(title, "", [_picture(client, outputs[f"{row}-{column} saved"]) for column in range(len(texts))], texts)
        for row, (title, texts) in enumerate(asked.items())
    ]
    return [Row("your pictures", "", _references(request)), *rows]


def _encoded(graph: Graph, text: str) -> Prompt:
    return {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": [graph.compose, 1]}}


def _cell(graph: Graph, name: str, text: str, seed: int) -> Prompt:
    sampler = {**graph.prompt[graph.sampler]["inputs"], "seed": seed, "model": [graph.compose, 0]}
    sampler |= {"positive": [f"{name} text", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    decoded = {"samples": [name, 0], "vae": [graph.model, 2]}
    saved = {"images": [f"{name} decoded", 0], "filename_prefix": f"quickstart/{name}"}
    return {
        f"{name} text": _encoded(graph, text),
        name: {"class_type": "KSampler", "inputs": sampler},
        f"{name} decoded": {"class_type": "VAEDecode", "inputs": decoded},
        f"{name} saved": {"class_type": "SaveImage", "inputs": saved},
    }


def _picture(client: Client, output: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(client.fetch(output["images"][0]))).convert("RGB")


def _references(request: Quickstart) -> list[Image.Image]:
    """The first pictures, as the pack reads them; what it cannot read, Concept Dataset has told."""
    pack.register_pack()
    from concept_loom.personalization.pictures import (  # pyright: ignore[reportMissingImports] - named by register_pack
        files_of,
        read_pictures,
    )

    files = files_of(request.images or EXAMPLES / "pictures")
    readable = (picture for file in files for picture in read_pictures([file])[0])
    return [Image.fromarray(one.pixels.numpy()) for one in islice(readable, len(request.templates))]


def _sheet(rows: list[Row], info: dict[str, Any], request: Quickstart, scores: dict[str, Any] | None) -> Path:
    if scores:
        rows = _noted(rows, scores)
    if not request.is_own:
        from .judged import with_scores

        rows = with_scores(rows, info["class_word"])
    path = OUTPUT / "quickstart.png"
    save_sheet(f"<{info['placeholder']}> learned in {info['steps']} steps ({info['method']})", rows, path)
    return path


def _noted(rows: list[Row], scores: dict[str, Any]) -> list[Row]:
    """Beside pictures, class word and learned word what Evaluate Concept says of them, as far as it can."""
    marks = [one["identity"] for one in scores["overall"]] or [None] * 3
    kinds = ("class word", "learned", "your pictures")  # as Evaluate Concept lists them
    notes = {kind: f"identity {mark:.2f}" for kind, mark in zip(kinds, marks, strict=True) if mark is not None}
    return [row._replace(note=notes.get(row.title.partition(":")[0], row.note)) for row in rows]


def _clip_scores(client: Client, graph: Graph, request: Quickstart) -> dict[str, Any]:
    """What Evaluate Concept says with the checkpoint's image encoder or the playground's own."""
    prompt = graph.learning()
    seen = [graph.model, 3]
    if request.clip_vision:
        loaded = {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": request.clip_vision.name}}
        prompt, seen = {**prompt, "clip vision": loaded}, ["clip vision", 0]
    wires = {"model": [graph.model, 0], "clip": [graph.model, 1], "vae": [graph.model, 2], "clip_vision": seen}
    wires |= {"concept": [graph.learn, 0], "dataset": [graph.dataset, 0]}
    scored = {"class_type": "ConceptLoom_EvaluateConcept", "inputs": {**wires, "seeds": 1}}
    told = {"class_type": "PreviewAny", "inputs": {"source": ["scored", 2]}}
    return json.loads(_do(client, {**prompt, "scored": scored, "told": told})["told"]["text"][0])
