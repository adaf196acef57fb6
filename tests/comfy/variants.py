"""The UNets that ComfyUI loads and concepts act in, as far as they differ for us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy import supported_models as known


@dataclass(frozen=True)
class Variant:
    family: str
    how: Mapping[str, Any] = field(default_factory=dict)
    prediction: str = "eps"


NARROW = {"manual": torch.float32}
VARIANTS = {
    "SD 1.5": Variant("SD 1.5"),
    "SD 1.5 inpainting": Variant("SD 1.5", {"channels": 9}),
    "SD 1.5 instruct-pix2pix": Variant("SD 1.5", {"channels": 8, "kind": known.SD15_instructpix2pix}),
    "SD 1.5 in fp16": Variant("SD 1.5", {"dtype": torch.float16}),
    "SD 1.5 in fp16, computed in fp32": Variant("SD 1.5", {"dtype": torch.float16, **NARROW}),
    "SD 1.5 in bf16": Variant("SD 1.5", {"dtype": torch.bfloat16}),
    "SD 1.5 in fp8": Variant("SD 1.5", {"dtype": torch.float8_e4m3fn, **NARROW}),
    "SD 2 base": Variant("SD 2", {"hints": {}}),
    "SD 2 768-v": Variant("SD 2", {}, "v"),
    "SD 2 inpainting": Variant("SD 2", {"channels": 9}),
    "SDXL": Variant("SDXL"),
    "SDXL inpainting": Variant("SDXL", {"channels": 9}),
    "SDXL v-prediction": Variant("SDXL", {"hints": {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}}, "v"),
    "SDXL v-prediction EDM (CosXL)": Variant("SDXL", {"hints": {"edm_vpred.sigma_max": torch.tensor(80.0)}}, "v"),
    "SDXL EDM (Playground 2.5)": Variant(
        "SDXL", {"hints": {"edm_mean": torch.zeros(1), "edm_std": torch.ones(1)}}, "edm"
    ),
    "SDXL in fp8": Variant("SDXL", {"dtype": torch.float8_e5m2, **NARROW}),
    "SSD-1B": Variant("SDXL", {"kind": known.SSD1B}),
    "Segmind Vega": Variant("SDXL", {"kind": known.Segmind_Vega}),
    "KOALA 700M": Variant("SDXL", {"kind": known.KOALA_700M}),
    "KOALA 1B": Variant("SDXL", {"kind": known.KOALA_1B}),
    "SDXL instruct-pix2pix": Variant("SDXL", {"channels": 8, "kind": known.SDXL_instructpix2pix}),
}

KINDS = {  # the host's classes
    known.SD15,
    known.SD15_instructpix2pix,
    known.SD20,
    known.SD21UnclipL,
    known.SD21UnclipH,
    known.SDXL,
    known.SDXL_instructpix2pix,
    known.SSD1B,
    known.Segmind_Vega,
    known.KOALA_700M,
    known.KOALA_1B,
}
