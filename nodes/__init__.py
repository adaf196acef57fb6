"""What a designer sees: one noun per file, a schema and a few lines per node."""

from __future__ import annotations

from comfy_api.latest import io


def node_classes() -> list[type[io.ComfyNode]]:
    from . import folders, routes
    from .captions import CaptionPictures
    from .check import CheckComfyUI
    from .compose import ComposeConcepts, PlaceConcept
    from .dataset import ConceptDatasetNode
    from .exchange import ExportConcept, ImportConcept
    from .files import LoadConcept, SaveConcept
    from .inspect import EvaluateConcept, StrengthSheet
    from .learn import LearnConcept
    from .nested import NestedAttentionInjector, TrainNestedEncoder
    from .playground import LoadPlaygroundModel
    from .towers import TowerEncoder, TrainTowers

    folders.register()
    routes.register()
    return [
        LoadPlaygroundModel,
        ConceptDatasetNode,
        CaptionPictures,
        LearnConcept,
        SaveConcept,
        LoadConcept,
        ImportConcept,
        ExportConcept,
        PlaceConcept,
        ComposeConcepts,
        TrainNestedEncoder,
        NestedAttentionInjector,
        TrainTowers,
        TowerEncoder,
        EvaluateConcept,
        StrengthSheet,
        CheckComfyUI,
    ]
