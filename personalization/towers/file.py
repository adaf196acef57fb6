"""Towers files (network_file.py)."""

from __future__ import annotations

from typing import TypeAlias

from ..network_file import NetworkFile, NetworkInfo, NetworkKind
from .networks import Towers, TowersShape

TOWERS = NetworkKind("towers", "Train Towers", "concept_loom_towers", TowersShape, Towers)
TowersInfo: TypeAlias = NetworkInfo[TowersShape]
TowersFile: TypeAlias = NetworkFile[TowersShape]
