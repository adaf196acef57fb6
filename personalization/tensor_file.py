"""What all our files are: safetensors with one JSON text in the metadata, read without trusting anything in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from .refusal import ConceptFileError, damaged, not_ours

HEADER_LIMIT = 8 << 20  # bytes; what ComfyUI reads of a header
FILE_LIMIT = 1 << 30
LONGEST = 1 << 16  # characters of a text

Kind = TypeVar("Kind")


def read_metadata(path: Path, kind: str = "concept") -> Mapping[str, str]:
    """The header's metadata, read without the tensors; ConceptFileError where there is none."""
    try:
        size = path.stat().st_size
        header = _json_header(path)
    except OSError as error:
        raise ConceptFileError(
            f"The file '{path}' cannot be read ({error.strerror or error}). A {kind} file is needed. "
            "Choose one that exists and may be read."
        ) from error
    except (ValueError, RecursionError) as error:
        raise not_ours(path, "has no safetensors header", kind) from error
    if size > FILE_LIMIT:
        raise not_ours(path, f"is larger than {FILE_LIMIT >> 30} GiB", kind)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise not_ours(path, "has no safetensors header with metadata", kind)
    return metadata


def read_tensors(path: Path, kind: str = "concept") -> dict[str, Tensor]:
    """Every tensor in fp32; ConceptFileError where one is no finite floating point, or a single whole number."""
    try:
        tensors = safetensors.load(path.read_bytes())
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # a dtype or a size that torch does not have
        raise damaged(path, f"it is cut off or altered ({error})", kind) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) and not is_whole_number(tensor):
            raise damaged(path, f"'{name}' holds {tensor.dtype}, not floating point", kind)
        if not torch.isfinite(tensor).all():
            raise damaged(path, f"'{name}' holds values that are not finite", kind)
    return {name: tensor.float() for name, tensor in tensors.items()}


def typed(header: Mapping[str, object], name: str, kind: type[Kind]) -> Kind:
    """What a header says under `name`; KeyError or TypeError where that is missing or of another kind."""
    value = header[name]
    if type(value) is not kind or (isinstance(value, str) and len(value) > LONGEST):
        raise TypeError(f"'{name}' is no {kind.__name__}")
    return value


def is_whole_number(tensor: Tensor) -> bool:
    """As the alpha of many LoRA files is."""
    return tensor.numel() == 1 and tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _json_header(path: Path) -> object:
    with open(path, "rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else HEADER_LIMIT + 1
        return json.loads(file.read(length)) if length <= HEADER_LIMIT else None
