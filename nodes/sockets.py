"""The sockets of our own types, and the name under which all nodes stand in the menu."""

from __future__ import annotations

from inspect import signature
from typing import Any

from comfy_api.latest import io

CATEGORY = "Concept Loom"
# Queued alone, a node that says something runs like an output; ComfyUI 0.18 does not know that yet.
SPEAKS: dict[str, Any] = (
    {"has_intermediate_output": True} if "has_intermediate_output" in signature(io.Schema).parameters else {}
)

Concept = io.Custom("CONCEPT")  # a PlacedConcept: what was learned, and how it is used in this workflow
Dataset = io.Custom("CONCEPT_DATASET")  # a ConceptDataset
