"""MODEL not wired through: a node drew a Compose node's words without the MODEL on which they are composed.

Nothing of ours runs in such a sampling. But ComfyUI asks every node of every prompt for its fingerprint, also the
cached ones; there we ask to be told which nodes have run, and look where those got their MODEL and their words.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from comfy_execution.progress import NodeProgressState, ProgressHandler, add_progress_handler, get_progress_state

from ..personalization.comfyui.graph import Graph
from ..personalization.composition import Composition
from ..personalization.report import Run, reports
from ..personalization.sites import Site
from .reports import TELLERS, Teller

log = logging.getLogger("concept_loom")

NAME = "concept_loom.wiring"


def watch_prompt() -> None:
    if NAME not in get_progress_state().handlers:
        add_progress_handler(Wiring())


class Wiring(ProgressHandler):
    def __init__(self) -> None:
        super().__init__(NAME)
        self._ran: set[str] = set()

    def start_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        self._ran.add(node_id)

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """Cached nodes finish too, without having run. The host lets an error here end its worker: none may leave."""
        if node_id not in self._ran or not TELLERS:
            return
        try:
            self._tell(node_id, prompt_id)
        except Exception:
            log.exception("Whether the words of node %s came with their MODEL could not be found out.", node_id)

    def _tell(self, node_id: str, prompt_id: str) -> None:
        graph = Graph.running()
        for teller, composition in untold(graph, node_id, prompt_id):
            words = {placed.word for placed in composition}
            route = graph.route(node_id)
            spoken = frozenset(words) if route.unknown else route.spoken
            unwired, idle = ("", route.node) if _wired(graph, node_id, teller) else (route.node, "")
            run = Run(known=words, spoken=spoken, unwired=unwired, idle=idle)
            told = reports(composition, run, frozenset(_sites(composition)))
            for report in told:
                log.log(logging.WARNING if report.warns else logging.INFO, report.sentence)
            teller.send(told, prompt_id, node_id)


def untold(graph: Graph, node: str, prompt: str) -> Iterator[tuple[Teller, Composition]]:
    """Who composed words that `node` did not draw with its MODEL, and those that no later Compose has replaced."""
    if not graph.draws(node):
        return
    reached = [TELLERS[one] for one in {one for one, _ in graph.words_from(node)} if one in TELLERS]
    for teller in reached:
        if not _sampled(graph, node, teller, prompt):
            later = (other for other in reached if (teller.node, 1) in graph.words_from(other.node))
            replaced = {placed.word for other in later for placed in other.composition}
            left = tuple(placed for placed in teller.composition if placed.word not in replaced)
            if left:
                yield teller, left


def _sampled(graph: Graph, node: str, teller: Teller, prompt: str) -> bool:
    """A sampler has told us itself; of other nodes that take MODEL and prompts only the wires are known."""
    return teller.heard_of(prompt, node) or (_wired(graph, node, teller) and not graph.gives(node, "LATENT"))


def _wired(graph: Graph, node: str, teller: Teller) -> bool:
    return (teller.node, 0) in graph.model_from(node)


def _sites(composition: Composition) -> Iterator[Site]:
    for placed in composition:
        for part in placed.concept.parts:
            yield from part.sites
