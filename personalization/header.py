"""The JSON of a concept file: everything about a concept that is not a tensor, and nothing that is not checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TypeVar

from .concept import ROLES, Base, ConceptInfo, is_placeholder
from .refusal import ConceptFileError, damaged, newer
from .sites import Site, SiteShape
from .tensor_file import LONGEST, typed

KEY = "concept_loom"
FORMAT = 1
WIDEST, MOST_SITES, MOST_SLOTS = 1 << 16, 4096, 64

TEXTS = (
    *("name", "placeholder", "phrase", "class_word", "role", "method"),
    *("data_hash", "license", "author", "note", "key"),
)
NUMBERS = {"seed": int, "steps": int, "strength": float, "value_norm": float}

KNOWN = {"format", "tensor_hash", *(own.name for own in fields(ConceptInfo))}

Number = TypeVar("Number", int, float)


def json_of(info: ConceptInfo, tensor_hash: str) -> str:
    """What is at its default is left out: versions that do not know a field yet refuse only what they cannot do.

    ValueError for a text that no reader would take.
    """
    long = next((name for name in TEXTS if len(getattr(info, name)) > LONGEST), None)
    if long:
        count = len(getattr(info, long))
        raise ValueError(f"The {long} has {count:,} characters; a file keeps at most {LONGEST:,}. Shorten it.")
    every = {own.name: getattr(info, own.name) for own in fields(info)}
    told = {own.name: every[own.name] for own in fields(info) if every[own.name] != own.default}
    scores = {name: score for name, score in info.scores.items() if math.isfinite(score)}
    header = {**told, "scores": scores, "base": _of_base(info.base), "recipe": dict(info.recipe)}
    return json.dumps({"format": FORMAT, **header, "tensor_hash": tensor_hash}, default=str)


def info_from(text: str, path: Path) -> tuple[ConceptInfo, str]:
    """The info and the tensor hash of a header; ConceptFileError when anything in it is not what it should be."""
    try:
        header = json.loads(text)
        version = typed(header, "format", int)
        if version != FORMAT:
            raise newer(path, version, FORMAT)
        if unknown := sorted(set(header) - KNOWN):
            raise ConceptFileError(
                f"The concept file '{path}' says {', '.join(unknown)[:200]}, which this version of Concept Loom would "
                "leave out; a file that it knows whole is needed. Update Concept Loom."
            )
        return _info(header), typed(header, "tensor_hash", str)
    except ConceptFileError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:  # Overflow: 400 digits
        raise damaged(path, f"its header is not what Concept Loom writes ({error})") from error


def _info(header: Mapping[str, object]) -> ConceptInfo:
    texts = {name: typed(header, name, str) for name in TEXTS if name in header or name in _required()}
    numbers = {name: _number(header, name, kind) for name, kind in NUMBERS.items() if name in header}
    scores = typed(header, "scores", dict) if "scores" in header else {}
    losses = typed(header, "losses", list) if "losses" in header else []
    info = ConceptInfo(base=_base(typed(header, "base", dict)), **texts, **numbers)
    _sane(info)
    return replace(
        info,
        scores={str(name): _number(scores, name, float) for name in scores},
        recipe=typed(header, "recipe", dict) if "recipe" in header else {},
        losses=tuple(_finite(loss, "losses", float) for loss in losses[:LONGEST]),
    )


def _sane(info: ConceptInfo) -> None:
    if info.role not in ROLES:
        raise ValueError(f"the role '{info.role}' is none of {', '.join(ROLES)}")
    if not is_placeholder(info.placeholder):
        raise ValueError(f"'{info.placeholder}' is no placeholder")
    if not info.class_word.strip():
        raise ValueError("it has no class word")
    if not 1 <= info.slots <= MOST_SLOTS:
        raise ValueError(f"the phrase '{info.phrase[:40]}' has {info.slots} slots")


def _of_base(base: Base) -> dict[str, object]:
    sites = [[*shape.site, shape.width, shape.context, shape.heads] for shape in base.sites]
    own = {field.name: getattr(base, field.name) for field in fields(base)}
    return {**own, "encoders": [[key, width] for key, width in base.encoders.items()], "sites": sites}


def _base(header: Mapping[str, object]) -> Base:
    sites = typed(header, "sites", list)
    if len(sites) > MOST_SITES:
        raise ValueError(f"{len(sites)} sites")
    return Base(
        family=typed(header, "family", str),
        context_width=_width(header["context_width"]),
        encoders={_text(key): _width(width) for key, width in typed(header, "encoders", list)},
        sites=tuple(_site(*site) for site in sites),
        prediction=typed(header, "prediction", str),
        fingerprint=typed(header, "fingerprint", str),
        name=typed(header, "name", str) if "name" in header else "",
    )


def _site(block: object, number: object, index: object, width: object, context: object, heads: object) -> SiteShape:
    site = Site.parse(f"{block}.{number}.{index}")
    return SiteShape(site, _width(width), _width(context), _width(heads))


def _required() -> set[str]:
    return {
        field.name for field in fields(ConceptInfo) if field.default is MISSING and field.default_factory is MISSING
    }


def _number(header: Mapping[str, object], name: str, kind: type[Number]) -> Number:
    return _finite(header[name], name, kind)


def _finite(value: object, name: str, kind: type[Number]) -> Number:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value):
        raise TypeError(f"'{name}' is no finite number")
    return kind(value)


def _width(value: object) -> int:
    if type(value) is not int or not 0 < value <= WIDEST:
        raise ValueError(f"{value} is no width")
    return value


def _text(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= 64:
        raise ValueError(f"{value} is no encoder")
    return value
