"""What became of each concept after sampling, told to the node that composed it: the event `concept_loom.report`."""

from __future__ import annotations

from dataclasses import asdict
from weakref import WeakValueDictionary

from comfy_execution.utils import get_executing_context

from ..personalization.composition import Composition
from ..personalization.report import Report
from .page import tell

EVENT = "concept_loom.report"


class Teller:
    """A composition's listener: it lives as long as the MODEL that it was woven into."""

    def __init__(self, node: str, composition: Composition) -> None:
        self.node, self.composition = node, composition
        self._heard: set[tuple[str, str]] = set()  # prompt and node that drew with our MODEL
        TELLERS[node] = self

    def __call__(self, reports: tuple[Report, ...]) -> None:
        TELLERS[self.node] = self  # a composition that comes from the cache was made before the latest one
        context = get_executing_context()  # none in a thread of another pack
        prompt, sampler = (context.prompt_id, context.node_id) if context else ("", "")
        self._heard = {one for one in self._heard if one[0] == prompt} | {(prompt, sampler)}
        self.send(reports, prompt, sampler)

    def heard_of(self, prompt: str, sampler: str) -> bool:
        return bool(self._heard & {(prompt, sampler), ("", "")})

    def send(self, reports: tuple[Report, ...], prompt: str, sampler: str) -> None:
        """To the client whose prompt runs: {"node", "sampler", "prompt_id", "reports", "workflow"}."""
        told = [{**asdict(one), "warns": one.warns} for one in reports]
        tell(EVENT, {"node": self.node, "sampler": sampler, "prompt_id": prompt, "reports": told})


TELLERS: WeakValueDictionary[str, Teller] = WeakValueDictionary()  # by the Compose node's id
