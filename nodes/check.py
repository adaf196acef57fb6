"""Check This ComfyUI: which of our promises hold here, within a minute."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from comfy_api.latest import io

from ..personalization.comfyui.canvas import Canvas
from ..personalization.dataset import dataset_of
from ..personalization.pictures import read_pictures
from ..playground.model import load
from .pictures import EXAMPLE_PICTURES
from .sockets import CATEGORY

NODE = "ConceptLoom_CheckComfyUI"


class CheckComfyUI(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=NODE,
            display_name="Check This ComfyUI",
            category=f"{CATEGORY}/check",
            description="Learns 20 steps on the playground and says which promises hold in this ComfyUI: base weights "
            "unchanged, the concept acts at every site, strength 0 and a prompt without the word change nothing, the "
            "file is written and read.",
            search_aliases=["self test", "diagnose", "doctor", "compatibility"],
            is_output_node=True,
            is_dev_only=True,
            not_idempotent=True,
            inputs=[],
            outputs=[],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..personalization.comfyui.promises import promises  # ComfyUI's start need not wait for it

        model, clip, vae, _ = load()
        dataset = dataset_of(*read_pictures(EXAMPLE_PICTURES)[:1])
        with tempfile.TemporaryDirectory() as folder:
            found = promises(Canvas(model, clip, vae), dataset, Path(folder))
        told = [one._asdict() for one in found]
        return io.NodeOutput(ui={"text": ("\n".join(one.sentence for one in found),), "promises": told})

    @classmethod
    def fingerprint_inputs(cls) -> str:
        return uuid.uuid4().hex  # asked again, checked again
