"""The graph of the prompt that runs: from where a node gets its MODEL and its words, and what stands in between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import comfy_execution.graph as host
from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from .spoken import MEMORY

HOST_NODES: Any = host.nodes  # ComfyUI's nodes.py; type checkers see our own package of that name

Link = tuple[str, int]  # a node and the number of its output

TEXT, MODELS, CLIPS = frozenset({"CONDITIONING", "GUIDER"}), frozenset({"MODEL", "GUIDER"}), frozenset({"CLIP"})
ANY = frozenset({"*", "COMFY_MATCHTYPE_V3", "COMFY_MULTITYPED_V3", None})  # switches, reroutes, inputs that grow


# They hand a conditioning's tensor on as it is; every other node on the way may have changed it.
KEEPERS = frozenset(
    f"Conditioning{name}"
    for name in ("Combine", "SetArea", "SetAreaPercentage", "SetAreaStrength", "SetMask", "SetTimestepRange")
) | {"ControlNetApply", "ControlNetApplyAdvanced", "InpaintModelConditioning", "unCLIPConditioning"}


class Route(NamedTuple):
    """How the words came to a node: what its prompts' encoders wrote, and which nodes may have changed it since."""

    node: str = ""  # as people know it: "KSampler (14)"
    spoken: frozenset[str] = frozenset()
    unknown: bool = False  # whether there are encoders of which nobody knows what they wrote
    changers: tuple[str, ...] = ()


class Graph:
    def __init__(self, prompt: host.DynamicPrompt) -> None:
        self._prompt = prompt

    @classmethod
    def running(cls) -> Graph:
        return cls(get_progress_state().dynprompt)

    def has(self, node: str) -> bool:
        return self._prompt.has_node(node)

    def takes(self, node: str, kinds: Collection[str | None]) -> bool:
        return any(True for _ in self._links(node, kinds))

    def gives(self, node: str, kind: str) -> bool:
        return kind in (getattr(self._class(node), "RETURN_TYPES", None) or ())

    def draws(self, node: str) -> bool:
        """Whether MODEL and words meet in this node; what only makes a guider leaves the drawing to another."""
        meet = self.takes(node, {"MODEL"}) and self.takes(node, {"CONDITIONING"})
        return self.takes(node, {"GUIDER"}) or (meet and not self.gives(node, "GUIDER"))

    def words_from(self, node: str) -> set[Link]:
        """Every output that the node's text went through, back to the CLIP's loader."""
        return self._upstream(self._upstream({(node, -1)}, TEXT), CLIPS)

    def model_from(self, node: str) -> set[Link]:
        return self._upstream({(node, -1)}, MODELS)

    def route(self, node: str) -> Route:
        if not self.has(node):
            return Route()
        between = {one for one, _ in self._upstream({(node, -1)}, TEXT)} - {node}
        encoders = {one for one in between if self.takes(one, CLIPS)}
        written = [MEMORY.written_by(one, self._prompt.get_node(one)) for one in encoders]
        changers = sorted(self.label(one) for one in between - encoders if self._may_change(one))
        spoken = frozenset(word for words in written for word in words or ())
        return Route(self.label(node), spoken, None in written, tuple(changers))

    def label(self, node: str) -> str:
        kind = self._kind_of(node)
        name = HOST_NODES.NODE_DISPLAY_NAME_MAPPINGS.get(kind) or kind
        return f"{name} ({self._prompt.get_display_node_id(node)})"

    def _may_change(self, node: str) -> bool:
        return self.gives(node, "CONDITIONING") and self._kind_of(node) not in KEEPERS

    def _kind_of(self, node: str) -> str:
        return self._prompt.get_node(node)["class_type"]

    def _class(self, node: str) -> Any:
        return HOST_NODES.NODE_CLASS_MAPPINGS[self._kind_of(node)]

    def _upstream(self, start: set[Link], kinds: frozenset[str]) -> set[Link]:
        found, ahead = set(start), list(start)
        while ahead:
            for link in self._links(ahead.pop()[0], kinds | ANY):
                if link not in found:
                    found.add(link)
                    ahead.append(link)
        return found

    def _links(self, node: str, kinds: Collection[str | None]) -> Iterator[Link]:
        declared = self._class(node).INPUT_TYPES()
        for name, value in self._prompt.get_node(node)["inputs"].items():
            if is_link(value) and self.has(value[0]):  # a widget's value may be a list of two as well
                kind = host.get_input_info(self._class(node), name, declared)[0]
                if (kind if isinstance(kind, str) else None) in kinds:
                    yield value[0], int(value[1])


def route_here() -> Route:
    """How the words came to the node that runs; empty outside a server."""
    context = get_executing_context()
    return Graph.running().route(context.node_id) if context else Route()
