"""Encoder files (network_file.py)."""

from __future__ import annotations

from typing import TypeAlias

from ..network_file import NetworkFile, NetworkInfo, NetworkKind
from .network import EncoderShape, NestedEncoder

ENCODERS = NetworkKind("encoder", "Train Nested Encoder", "concept_loom_encoder", EncoderShape, NestedEncoder)
EncoderInfo: TypeAlias = NetworkInfo[EncoderShape]
EncoderFile: TypeAlias = NetworkFile[EncoderShape]
