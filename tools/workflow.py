"""A workflow as the page saves it -> the prompt that the server runs, for the plain graphs of example_workflows/.

Saved values have no names: they stand in the order of the node's definition, with one more value where the page adds
a widget of its own ("randomize" after a seed, the button after an upload).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .refusal import Refusal

Json = dict[str, Any]
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")
UPLOADS = ("image_upload", "audio_upload", "video_upload")
ALWAYS = 0


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """`object_info` is the server's own /object_info."""
    origins = {link: [str(origin), slot] for link, origin, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        _check(node, object_info)
        linked = {one["name"]: origins[one["link"]] for one in node.get("inputs", ()) if one.get("link") is not None}
        values = _values(iter(node.get("widgets_values") or ()), object_info[node["type"]]["input"])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": {**dict(values), **linked}}
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


def _values(saved: Iterator[Any], definition: Json) -> Iterator[tuple[str, Any]]:
    """Takes from `saved` what this definition consumes; a short list leaves the rest to the server's defaults."""
    for name, kind, options in _widgets(definition):
        try:
            yield name, next(saved)
        except StopIteration:
            return
        if _has_second_widget(name, kind, options):
            next(saved, None)


def _widgets(definition: Json) -> Iterator[tuple[str, str, Json]]:
    for group in ("required", "optional"):
        for name, spec in definition.get(group, {}).items():
            kind = spec[0] if isinstance(spec[0], str) else "COMBO"
            options = spec[1] if len(spec) > 1 else {}
            if (kind in WIDGETS or "widgetType" in options) and not options.get("forceInput"):
                yield name, kind, options


def _has_second_widget(name: str, kind: str, options: Json) -> bool:
    controlled = options.get("control_after_generate")
    if controlled is None:
        controlled = kind == "INT" and name in SEEDS
    return bool(controlled) or any(options.get(upload) for upload in UPLOADS)
