"""What ComfyUI hands us without a type. `Any` stands here, at the host border, and nowhere past it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

Options = dict[str, Any]  # model_options, transformer_options, a patch's extra: every pack puts keys of its own there
Conditioning = list[list[Any]]  # [cond, dictionary] per entry


class Sampling(Protocol):
    """`model_sampling`: the host mixes it from two classes at run time."""

    def percent_to_sigma(self, percent: float) -> float: ...

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor) -> Tensor: ...

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor: ...


class Tokenizer(Protocol):
    """One encoder's SDTokenizer: what we read of it, and the two methods that we put in the way of."""

    tokenizer: Callable[[str], Mapping[str, list[int]]]
    tokenizer_adds_end_token: bool
    tokens_start: int
    embedding_directory: Any  # a path, several or None
    embedding_identifier: str
    tokenize_with_weights: Callable[..., list[list[tuple[Any, ...]]]]  # (token, weight, ...)
    _try_get_embedding: Callable[[str], tuple[Any, ...]]
