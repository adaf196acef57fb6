"""Tensors from the files of others, whose origin nobody knows: nothing in them is run, and nothing is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..refusal import ConceptFileError
from ..tensor_file import FILE_LIMIT, is_whole_number, read_tensors

PICKLED = (".pt", ".bin")
KIND = "embedding or LoRA"


def foreign_tensors(path: Path) -> dict[str, Tensor]:
    """Every named tensor in fp32, on the CPU; ConceptFileError where the file is none of these or cannot be trusted.

    Pickled files are only read as plain tensors (torch.load, weights_only): one that holds anything else is refused.
    """
    _refuse_unreadable(path)
    return _finite(path, _unpickled(path)) if path.suffix.lower() in PICKLED else read_tensors(path, KIND)


def _refuse_unreadable(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ConceptFileError(
            f"The file '{path}' cannot be read ({error.strerror or error}). An {KIND} file is needed. "
            "Choose one that exists and may be read."
        ) from error
    if size > FILE_LIMIT:
        raise unusable(path, f"is larger than {FILE_LIMIT >> 30} GiB")


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and the pickle module raise nearly every kind for a file that was tampered with
        raise ConceptFileError(
            f"The file '{path}' is pickled and holds more than plain tensors ({type(error).__name__}); loading it "
            "could run code. Plain tensors are needed. Take its .safetensors version, or convert it where you trust it."
        ) from error
    if not isinstance(content, Mapping):
        raise unusable(path, f"holds a {type(content).__name__} where named tensors belong")
    inner = content.get("string_to_param")  # A1111's own format
    named = {"emb_params": next(iter(inner.values()), None)} if isinstance(inner, Mapping) else content
    return {str(name): tensor.detach() for name, tensor in named.items() if isinstance(tensor, Tensor)}


def _finite(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if not _is_plain(tensor) or not torch.isfinite(tensor.float()).all():
            raise unusable(path, f"holds values in '{name}' that are no finite floating point")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _is_plain(tensor: Tensor) -> bool:
    """A few bytes on disk may claim any shape: strides of 0, sparse layouts, the meta device."""
    number = tensor.is_floating_point() or is_whole_number(tensor)
    plain = number and tensor.layout is torch.strided and tensor.device.type == "cpu"
    return plain and tensor.numel() * 4 <= FILE_LIMIT


def unusable(path: Path, why: str) -> ConceptFileError:
    return ConceptFileError(
        f"The file '{path}' cannot be imported: it {why}. A textual-inversion embedding or a LoRA for SD 1.5, SD 2 or "
        "SDXL is needed. Choose another one."
    )
