"""The scale of a LoRA that diffusers saved (from 0.34 on): it stands in the metadata, among peft's own settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..refusal import ConceptFileError
from ..tensor_file import read_metadata

KEY = "lora_adapter_metadata"
UNET = "unet."


@dataclass(frozen=True)
class Adapter:
    """`settings` of peft's LoraConfig for the UNet; none where the file has no such metadata."""

    settings: Mapping[str, object] = field(default_factory=dict)

    def alpha(self, layer: str, rank: int) -> float:
        """Of a layer (`down_blocks.1. ... .attn2.to_k`): over the rank it is its scale; the rank by default."""
        alpha = self.settings.get("lora_alpha", rank)
        pattern = self.settings.get("alpha_pattern")
        for key, own in pattern.items() if isinstance(pattern, dict) else ():
            if re.fullmatch(rf"(.*\.)?({re.escape(key)})", layer):
                alpha = own
                break
        if not isinstance(alpha, (int, float)):
            return float(rank)
        return float(alpha) * (rank**0.5 if self.settings.get("use_rslora") is True else 1.0)


def adapter_of(path: Path) -> Adapter:
    try:
        settings = json.loads(read_metadata(path).get(KEY, "{}"))
    except (ConceptFileError, ValueError, TypeError, RecursionError):  # without metadata, as most files are, or pickled
        return Adapter()
    if not isinstance(settings, dict):
        return Adapter()
    return Adapter({name.removeprefix(UNET): one for name, one in settings.items() if name.startswith(UNET)})
