"""Load Playground Model."""

from __future__ import annotations

from comfy_api.latest import io

from ..playground.model import load
from .sockets import CATEGORY


class LoadPlaygroundModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoom_LoadPlaygroundModel",
            display_name="Load Playground Model",
            category=CATEGORY,
            description="A tiny model of a small drawn world that comes with the pack: everything can be tried in "
            "minutes, without a download. For real pictures load a checkpoint instead.",
            search_aliases=["example model", "demo checkpoint", "tiny model", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="Draws 64 x 64 pictures."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its VAE."),
                io.ClipVision.Output(tooltip="Its picture encoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load())
