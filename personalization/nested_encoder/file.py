"""Encoder files (network_file.py)."""

from __future__ import annotations

from ..network_file import NetworkFile, NetworkInfo, NetworkKind
from .network import EncoderShape, NestedEncoder

ENCODERS = NetworkKind("encoder", "Train Nested Encoder", "concept_loom_encoder", EncoderShape, NestedEncoder)
EncoderInfo, EncoderFile = NetworkInfo[EncoderShape], NetworkFile[EncoderShape]
