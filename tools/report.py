"""The report of `dev.py demo --checkpoint`: what was measured with a real checkpoint, and what was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]
FOUND, RESUMED = "Learned before", "Went on from step"  # as Learn Concept begins where it did not train every step

UNSEEN = "likeness to pictures that were not learned from: fewer than 8 were given, so none was held out"
UNSCORED = (
    "CLIP scores: a checkpoint brings no CLIP vision encoder and nothing is downloaded; give one by --clip-vision"
)
UNTIMED = "seconds of learning: not every step was trained in this run, as `learning` says"
NO_PEAK = "peak memory: ComfyUI says only what torch holds on the device when it is asked, which was at the end"
NO_MEMORY = "memory: ComfyUI does not say what torch holds on this kind of device"


class Learning(NamedTuple):
    """What Learn Concept said, and the seconds of its prompt, loading the checkpoint included."""

    told: str
    seconds: float

    @property
    def was_found(self) -> bool:
        return self.told.startswith(FOUND)

    @property
    def is_whole(self) -> bool:
        return not self.told.startswith((FOUND, RESUMED))


def measured(info: Json, learning: Learning, device: Json, clip_scores: Json | None) -> Json:
    """`info` is the concept file's own header, `device` the first of ComfyUI's /system_stats."""
    held_out, memory = info.get("scores", {}).get("held_out"), _memory(device)
    known = {
        UNTIMED: learning.is_whole,
        UNSCORED: clip_scores,
        UNSEEN: held_out is not None,
        NO_PEAK if memory else NO_MEMORY: False,
    }
    return {
        "base": {name: info["base"][name] for name in ("family", "name", "prediction", "fingerprint")},
        "device": device["name"],
        "learning": learning.told.splitlines()[0],
        "learned_before": learning.was_found,
        "seconds": round(learning.seconds, 1) if learning.is_whole else None,
        "memory_at_the_end": memory,
        "steps": info["steps"],
        "held_out_loss_over_class_word": held_out,
        "clip_scores": clip_scores,
        "verified": [_way(learning), "drawn through /prompt with the word and without it"],
        "not_verified": [what for what, is_known in known.items() if not is_known],
    }


def _way(learning: Learning) -> str:
    return "found again through /prompt" if learning.was_found else "learned through /prompt"


def _memory(device: Json) -> dict[str, int] | None:
    """Bytes that torch holds; None where ComfyUI gives the machine's memory instead: on a CPU, MPS and DirectML."""
    if device["torch_vram_total"] == device["vram_total"]:
        return None
    return {"torch_reserved": device["torch_vram_total"], "torch_free": device["torch_vram_free"]}


def write(path: Path, report: Json) -> Path:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path
