"""A workflow as the page saves it -> the prompt that the server runs, for the plain graphs of example_workflows/.

Saved values have no names: they stand in the order of the node's definition, with one more value where the page adds
a widget of its own ("randomize" after a seed, the button after an upload).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .refusal import Refusal

Json = dict[str, Any]
NOTES = ("Note", "MarkdownNote")
REROUTE = "Reroute"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "MULTICOMBO")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
SEEDS = ("seed", "noise_seed")
UPLOADS = ("image_upload", "audio_upload", "video_upload")
ALWAYS = 0


class Origin(NamedTuple):
    node: int
    slot: int


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """`object_info` is the server's own /object_info."""
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    origins = {link: origin for link, origin in map(_link, workflow["links"])}
    prompt = {}
    for key, node in nodes.items():
        if node["type"] == REROUTE:
            continue
        _check(node, object_info)
        links = {name: _follow(origin, nodes, origins) for name, origin in _linked(node, origins)}
        inputs = {**_values(node, object_info[node["type"]]["input"]), **links}
        prompt[str(key)] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _check(node: Json, object_info: Json) -> None:
    name = f"{node['type']} (id {node['id']})"
    if node["type"] not in object_info:
        raise Refusal(
            f"The workflow has the node {name}, which this ComfyUI does not know. "
            "Only nodes of the core and of this pack can be run here, no subgraphs. "
            "See the server's log for a failed import."
        )
    if node.get("mode", ALWAYS) != ALWAYS:
        raise Refusal(f"The node {name} is muted or bypassed. Only active nodes can be run here: delete or enable it.")


def _link(link: list[Any] | Json) -> tuple[int, Origin]:
    """Version 0.4 of the format has lists, version 1 objects."""
    if isinstance(link, dict):
        return link["id"], Origin(link["origin_id"], link["origin_slot"])
    return link[0], Origin(link[1], link[2])


def _linked(node: Json, origins: dict[int, Origin]) -> Iterator[tuple[str, Origin]]:
    for slot in node.get("inputs", ()):
        if slot.get("link") is not None:
            yield slot["name"], origins[slot["link"]]


def _follow(origin: Origin, nodes: dict[int, Json], origins: dict[int, Origin]) -> list[Any]:
    while nodes[origin.node]["type"] == REROUTE:
        origin = origins[nodes[origin.node]["inputs"][0]["link"]]
    return [str(origin.node), origin.slot]


def _values(node: Json, definition: Json) -> Json:
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return saved
    return dict(_read(iter(saved), definition, prefix=""))


def _read(saved: Iterator[Any], definition: Json, prefix: str) -> Iterator[tuple[str, Any]]:
    """Takes from `saved` what this definition consumes; a short list leaves the rest to the server's defaults."""
    for name, kind, options in _widgets(definition):
        try:
            value = next(saved)
        except StopIteration:
            return
        yield prefix + name, value
        if kind == DYNAMIC_COMBO:
            chosen = [option["inputs"] for option in options["options"] if option["key"] == value]
            yield from _read(saved, chosen[0], f"{prefix}{name}.")
        elif _has_second_widget(name, kind, options):
            next(saved, None)


def _widgets(definition: Json) -> Iterator[tuple[str, str, Json]]:
    for group in ("required", "optional"):
        for name, spec in definition.get(group, {}).items():
            kind = spec[0] if isinstance(spec[0], str) else "COMBO"
            options = spec[1] if len(spec) > 1 else {}
            if (kind in WIDGETS or kind == DYNAMIC_COMBO or "widgetType" in options) and not options.get("forceInput"):
                yield name, kind, options


def _has_second_widget(name: str, kind: str, options: Json) -> bool:
    controlled = options.get("control_after_generate")
    if controlled is None:
        controlled = kind == "INT" and name in SEEDS
    return bool(controlled) or any(options.get(upload) for upload in UPLOADS)
