"""A concept's low-rank change of one layer as the host's own LoRA."""

from __future__ import annotations

from comfy.weight_adapter.lora import LoRAAdapter

from ..parts.low_rank import ALPHA, Pair
from ..sites import Site


class MergedLayer(LoRAAdapter):
    """The host's LoRA of one layer, which knows whose it is."""

    def __init__(self, word: str, site: Site, pair: Pair) -> None:
        super().__init__(set(), (pair.b, pair.a, ALPHA, None, None, None))
        self.word, self.site = word, site
