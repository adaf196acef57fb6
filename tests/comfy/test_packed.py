"""Concepts on a MODEL whose weights are packed and unpacked in every call, as GGUF packs have them."""

from collections.abc import Iterator
from dataclasses import replace

import comfy.model_patcher
import comfy.ops
import pytest
import torch
from concept_loom.nodes.compose import _notes
from concept_loom.personalization.comfyui.canvas import Canvas as LearningCanvas
from concept_loom.personalization.comfyui.family import base_of
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.guests import GUESTS
from torch import Tensor

from . import tiny
from .test_prompt_to_picture import Canvas, differ, picture

SCALE = 4  # bytes in front of every row
PARTS = {
    "context rows": tiny.concept,
    **{kind.kind: lambda kind=kind: tiny.guest(kind, tiny.concept()) for kind in GUESTS},
    "low rank": lambda: tiny.low_rank(tiny.concept()),
}


class PackedLinear(comfy.ops.manual_cast.Linear):
    """Bytes, and a scale for each row in front of them; its state dict shows none of it, as ComfyUI-GGUF's."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.nn.functional.linear(input, unpacked(self.weight), self.bias)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = torch.zeros_like(self.weight, device="meta")


def packed(weight: Tensor) -> Tensor:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return torch.cat((scale.view(torch.uint8), (weight / scale).round().add(128).to(torch.uint8)), 1)


def unpacked(weight: Tensor) -> Tensor:
    return (weight[:, SCALE:].float() - 128) * weight[:, :SCALE].contiguous().view(torch.float32)


def linear_layers(model: comfy.model_patcher.ModelPatcher) -> Iterator[torch.nn.Linear]:
    for name, module in model.model.diffusion_model.named_modules():
        if "transformer_blocks" in name and isinstance(module, torch.nn.Linear):
            yield module


@pytest.fixture(scope="module")
def in_bytes() -> comfy.model_patcher.ModelPatcher:
    model = tiny.fresh_model()
    for layer in linear_layers(model):
        layer.weight = torch.nn.Parameter(packed(layer.weight.detach()), requires_grad=False)
        layer.__class__ = PackedLinear
    return model


@pytest.fixture(scope="module")
def in_numbers() -> comfy.model_patcher.ModelPatcher:
    """The same, unpacked for good."""
    model = tiny.fresh_model()
    for layer in linear_layers(model):
        layer.weight = torch.nn.Parameter(unpacked(packed(layer.weight.detach())), requires_grad=False)
    return model


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_acts_as_on_the_unpacked_weights(part, in_bytes, in_numbers) -> None:
    one = PlacedConcept(part())
    assert _notes((one,), in_bytes, tiny.clip()) == ()
    canvases = [Canvas(one, model=model) for model in (in_bytes, in_numbers)]
    drawn, like = (picture(canvas.model, canvas.clip, "a <mug>") for canvas in canvases)
    assert differ(drawn, like) < 1e-4 and canvases[0].report().acted == canvases[0].report().sites
    plain = picture(in_bytes, tiny.clip(), "a mug")
    assert differ(drawn, plain) > 0.05 and torch.equal(picture(canvases[0].model, canvases[0].clip, "a mug"), plain)


def test_sites_are_those_of_the_unpacked_weights(in_bytes, in_numbers) -> None:
    assert base_of(in_bytes).sites == base_of(in_numbers).sites
    assert base_of(in_bytes).fingerprint == ""


def test_learning_on_packed_weights_is_refused_by_name(in_bytes) -> None:
    with pytest.raises(ValueError, match="packed as uint8, as those of GGUF"):
        LearningCanvas(in_bytes, tiny.clip(), None).base()


def merged(**how) -> PlacedConcept:
    return replace(PlacedConcept(tiny.low_rank(tiny.concept()), sparing=False), **how)


def test_merging_into_bytes_is_refused_where_the_pack_does_not_merge_itself(in_bytes) -> None:
    class PacksOwn(comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, *args, **kwargs) -> None:
            """As ComfyUI-GGUF's: it keeps LoRAs beside its bytes and merges what it has unpacked."""

    with pytest.raises(ValueError, match="<mug> are to be merged .* packed as uint8.* Turn sparing on"):
        _notes((merged(),), in_bytes, tiny.clip())
    own = in_bytes.clone()
    own.__class__ = PacksOwn
    assert _notes((merged(),), own, tiny.clip()) == ()
    assert _notes((merged(region=torch.ones(8, 8)),), in_bytes, tiny.clip()) == ()
