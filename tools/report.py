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
NO_PEAK = "peak memory: nothing was learned in this run"


class Learning(NamedTuple):
    """What Learn Concept said, the seconds of its prompt, loading the checkpoint included, and its bytes at the peak.

    On a GPU the peak is what torch held there, on a CPU all of ComfyUI.
    """

    told: str
    seconds: float
    peak: int

    @property
    def was_found(self) -> bool:
        return self.told.startswith(FOUND)

    @property
    def is_whole(self) -> bool:
        return not self.told.startswith((FOUND, RESUMED))


def measured(info: Json, learning: Learning, device: str, clip_scores: Json | None) -> Json:
    """`info` is the concept file's own header, `device` the name of the first of ComfyUI's /system_stats."""
    held_out = info.get("scores", {}).get("held_out")
    known = {
        UNTIMED: learning.is_whole,
        NO_PEAK: learning.peak,
        UNSCORED: clip_scores,
        UNSEEN: held_out is not None,
    }
    return {
        "base": {name: info["base"][name] for name in ("family", "name", "prediction", "fingerprint")},
        "device": device,
        "learning": learning.told.splitlines()[0],
        "learned_before": learning.was_found,
        "seconds": round(learning.seconds, 1) if learning.is_whole else None,
        "peak_bytes": learning.peak or None,
        "steps": info["steps"],
        "held_out_loss_over_class_word": held_out,
        "clip_scores": clip_scores,
        "verified": [_way(learning), "drawn through /prompt with the word and without it"],
        "not_verified": [what for what, is_known in known.items() if not is_known],
    }


def _way(learning: Learning) -> str:
    return "found again through /prompt" if learning.was_found else "learned through /prompt"


def write(path: Path, report: Json) -> Path:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path
