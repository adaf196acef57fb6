"""Concept files, format 1: safetensors with `embedding.<encoder>` and `<part>.<block>.<number>.<index>`
(`latent_instruction.every_site` for what all sites share).

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

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from .concept import Concept, ConceptInfo
from .header import KEY, info_from, json_of
from .parts import PARTS, Part
from .refusal import ConceptFileError, damaged, not_ours
from .whole_file import write_whole

HEADER_LIMIT = 8 << 20  # bytes; what ComfyUI reads of a header
FILE_LIMIT = 1 << 30
THUMBNAIL = "data:image/jpeg;base64,"
ARCHITECTURES = {"SD 1.5": "stable-diffusion-v1", "SD 2": "stable-diffusion-v2", "SDXL": "stable-diffusion-xl-v1-base"}


def save(concept: Concept, path: Path | str) -> None:
    """Write the file under its final name only when it is complete on disk."""
    write_whole(Path(path), _serialised(concept))


def load(path: Path | str) -> Concept:
    """The concept of a file; ConceptFileError, a ValueError that names the file, when anything in it is wrong."""
    path = Path(path)
    metadata = _metadata(path)
    info, digest = _info(path, metadata)
    tensors = _tensors(path)
    concept = _assembled(path, info, tensors, _thumbnail(metadata))
    if concept.hash != digest:
        raise damaged(path, "its tensors are not the ones that were saved")
    return concept


def read_info(path: Path | str) -> ConceptInfo:
    """What a file says about itself, without loading a tensor."""
    return read_identity(path)[0]


def read_identity(path: Path | str) -> tuple[ConceptInfo, str]:
    """The same, and the hash of the tensors that the file says it holds."""
    return _info(Path(path), _metadata(Path(path)))


def read_thumbnail(path: Path | str) -> bytes:
    """The preview's JPEG, empty when there is none."""
    return _thumbnail(_metadata(Path(path)))


def _serialised(concept: Concept) -> bytes:
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in concept.tensors().items()}
    metadata = {KEY: json_of(concept.info, concept.hash)} | _shown(concept)
    plain = safetensors.save(tensors)
    content = plain[8 + struct.unpack("<Q", plain[:8])[0] :]
    return safetensors.save(tensors, metadata | {"modelspec.hash_sha256": f"0x{hashlib.sha256(content).hexdigest()}"})


def _shown(concept: Concept) -> dict[str, str]:
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


def _metadata(path: Path) -> Mapping[str, str]:
    """The header's metadata, read without the tensors."""
    try:
        size = path.stat().st_size
        header = _json_header(path)
    except OSError as error:
        raise ConceptFileError(
            f"The file '{path}' cannot be read ({error.strerror or error}). A concept file is needed. "
            "Choose one that exists and may be read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise not_ours(path, "has no safetensors header") from error
    if size > FILE_LIMIT:
        raise not_ours(path, f"is larger than {FILE_LIMIT >> 30} GiB")
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise not_ours(path, "has no safetensors header with metadata")
    return metadata


def _json_header(path: Path) -> object:
    with open(path, "rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else HEADER_LIMIT + 1
        return json.loads(file.read(length)) if length <= HEADER_LIMIT else None


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


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.load(path.read_bytes())
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that torch does not have
        raise damaged(path, f"it is cut off or altered ({error})") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise damaged(path, f"'{name}' holds {tensor.dtype}, not floating point")
        if not torch.isfinite(tensor).all():
            raise damaged(path, f"'{name}' holds values that are not finite")
    return {name: tensor.float() for name, tensor in tensors.items()}


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
    return Concept(info, _embeddings(tensors), _parts(info, tensors), thumbnail)


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
