"""Textual Inversion (Gal et al., arXiv 2208.01618), eq. 2: only the placeholder's embedding is learned.

    v* = argmin_v E || eps - eps_theta(z_t, t, c(y, v)) ||^2        v starts as the class word's embedding

The paper's prompts say `a photo of [V]`, without the class word.
"""

from __future__ import annotations

from ..concept import Concept
from .beginning import Beginning, class_concept


def start(beginning: Beginning) -> Concept:
    """An embedding per text encoder, (slots, width), and no parts."""
    return class_concept(beginning, beginning.slots)
