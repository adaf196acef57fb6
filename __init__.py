"""Concept Loom: learn a concept from a few pictures, write its name in a prompt, weave several into one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


# Imports stay inside: pytest imports this file without a package around it and without ComfyUI.
async def comfy_entrypoint() -> ComfyExtension:
    from comfy_api.latest import ComfyExtension, io

    from .nodes import node_classes

    class ConceptLoom(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return node_classes()

    return ConceptLoom()
