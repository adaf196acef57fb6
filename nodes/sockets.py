"""The sockets of our own types, and the name under which all nodes stand in the menu."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Concept Loom"

Concept = io.Custom("CONCEPT")  # a PlacedConcept: what was learned, and how it is used in this workflow
Dataset = io.Custom("CONCEPT_DATASET")  # a ConceptDataset
