"""Concept files, format 1: safetensors with `embedding.<encoder>` and `<part>.<block>.<number>.<index>`, to which the
part low_rank adds the layer and a or b: `low_rank.input.4.0.attn2.to_k.a`. What all sites share is stored once:
`latent_instruction.every_site`.

Everything else stands as one JSON text under "concept_loom" in the file's metadata, beside the keys that ComfyUI's
asset browser and other tools show (modelspec.*, trained_words, ssmd_cover_images).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from safetensors import torch as safetensors
from torch import Tensor

from .concept import Concept, ConceptInfo
from .header import KEY, info_from, json_of
from .parts import PARTS, Part
from .refusal import damaged, not_ours
from .tensor_file import read_metadata, read_tensors
from .whole_file import write_whole

THUMBNAIL = "data:image/jpeg;base64,"
ARCHITECTURES = {"SD 1.5": "stable-diffusion-v1", "SD 2": "stable-diffusion-v2", "SDXL": "stable-diffusion-xl-v1-base"}


def save(concept: Concept, path: Path | str) -> None:
    """Write the file under its final name only when it is complete on disk."""
    write_whole(Path(path), _serialised(concept))


def load(path: Path | str) -> Concept:
    """The concept of a file; ConceptFileError, a ValueError that names the file, when anything in it is wrong."""
    path = Path(path)
    metadata = read_metadata(path)
    info, digest = _info(path, metadata)
    tensors = read_tensors(path)
    concept = _assembled(path, info, tensors, _thumbnail(metadata))
    if concept.hash != digest:
        raise damaged(path, "its tensors are not the ones that were saved")
    return concept


def read_info(path: Path | str) -> ConceptInfo:
    """What a file says about itself, without loading a tensor."""
    return read_identity(path)[0]


def read_identity(path: Path | str) -> tuple[ConceptInfo, str]:
    """The same, and the hash of the tensors that the file says it holds."""
    return _info(Path(path), read_metadata(Path(path)))


def _serialised(concept: Concept) -> bytes:
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in concept.tensors().items()}
    metadata = {KEY: json_of(concept.info, concept.hash)} | shown(concept)
    plain = safetensors.save(tensors)
    content = plain[8 + struct.unpack("<Q", plain[:8])[0] :]
    return safetensors.save(tensors, metadata | {"modelspec.hash_sha256": f"0x{hashlib.sha256(content).hexdigest()}"})


def shown(concept: Concept) -> dict[str, str]:
    """What model browsers read: https://github.com/Stability-AI/ModelSpec, and ComfyUI's asset browser."""
    info, trigger = concept.info, f"<{concept.info.placeholder}>"
    shown = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES.get(info.base.family, info.base.family)}/concept-loom",
        "modelspec.implementation": "concept-loom",
        "modelspec.title": info.name,
        "modelspec.author": info.author,
        "modelspec.license": info.license,
        "modelspec.description": info.note,
        "modelspec.trigger_phrase": trigger,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "modelspec.base_model": info.base.name or info.base.family,
        "trained_words": json.dumps([trigger]),
    }
    if concept.thumbnail:
        picture = base64.b64encode(concept.thumbnail).decode()
        shown |= {"ssmd_cover_images": json.dumps([picture]), "modelspec.thumbnail": THUMBNAIL + picture}
    return {key: text for key, text in shown.items() if text}


def _info(path: Path, metadata: Mapping[str, str]) -> tuple[ConceptInfo, str]:
    if not isinstance(metadata.get(KEY), str):
        raise not_ours(path, "was not written by Concept Loom")
    return info_from(metadata[KEY], path)


def _thumbnail(metadata: Mapping[str, str]) -> bytes:
    """A preview that cannot be read is none: it is for people and changes nothing else."""
    text = metadata.get("modelspec.thumbnail")
    try:
        return base64.b64decode(text.removeprefix(THUMBNAIL), validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _assembled(path: Path, info: ConceptInfo, tensors: Mapping[str, Tensor], thumbnail: bytes) -> Concept:
    expected = _expected(info)
    for name, tensor in tensors.items():
        if name not in expected:
            raise damaged(path, f"'{name}' belongs to no part or site of {info.base.family} that this version knows")
        if not _agrees(tensor, expected[name]):
            shape = " x ".join("any" if size is None else str(size) for size in expected[name])
            raise damaged(path, f"'{name}' is {tuple(tensor.shape)} where {shape} belongs")
    if not tensors:
        raise damaged(path, "it holds no tensors")
    try:
        return Concept(info, _embeddings(tensors), _parts(info, tensors), thumbnail)
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _agrees(tensor: Tensor, expected: tuple[int | None, ...]) -> bool:
    """None stands for any size but 0."""
    sizes = zip(tensor.shape, expected, strict=False)
    return tensor.ndim == len(expected) and all(size == (size if want is None else want) > 0 for size, want in sizes)


def _expected(info: ConceptInfo) -> dict[str, tuple[int | None, ...]]:
    """Every tensor name that this concept may have, and its shape."""
    embeddings = {f"embedding.{key}": (info.slots, width) for key, width in info.base.encoders.items()}
    parts = [part.expected(info.base.sites, info.slots) for part in PARTS.values()]
    return {**embeddings} | {name: shape for names in parts for name, shape in names.items()}


def _embeddings(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "embedding."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parts(info: ConceptInfo, tensors: Mapping[str, Tensor]) -> tuple[Part, ...]:
    own = {kind: {name: one for name, one in tensors.items() if name.startswith(f"{kind}.")} for kind in PARTS}
    return tuple(PARTS[kind].from_tensors(found, info.base.sites) for kind, found in own.items() if found)
