"""Other packs' patches on the same MODEL, in any order."""

import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_torch_compile as torch_compile
import pytest
import torch
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.patch import weave_model

from . import tiny
from .test_prompt_to_picture import differ, encode, mug, sample


def lora(model):
    clone = model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    clone.add_patches({key: (0.05 * torch.randn(32, 768, generator=torch.Generator().manual_seed(5)),)}, 1.0)
    return clone


def freeu(model):
    return freelunch.FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2)[0]


def adapter(model):
    """As IPAdapter does it: attn2 of a block is replaced by attention plus something of its own."""

    def replacement(q, k, v, extra):
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q, k, v, extra["n_heads"]) + 0.3

    clone = model.clone()
    clone.set_model_attn2_replace(replacement, "middle", 0)
    return clone


def hypernetwork(model):
    """An attn2_patch that gives keys and values contexts of their own."""
    clone = model.clone()
    clone.set_model_attn2_patch(lambda n, context, value, extra: (n, context * 1.1, value * 0.9))
    return clone


def override(model):
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda func, *args, **kwargs: 0.9 * func(*args, **kwargs)
    return clone


def compiled(model):
    return torch_compile.TorchCompileModel.execute(model, "eager")[0]


def words(clip, positive="a <mug>"):
    return encode(clip, positive), encode(clip, "blurry")


@pytest.mark.parametrize("neighbour", [lora, freeu, adapter, override])
@pytest.mark.parametrize("region", [None, torch.ones(8, 8)])
def test_the_order_of_nodes_does_not_matter(neighbour, region):
    told = []
    clip = weave_clip(tiny.clip(), (mug(region=region),))
    first = sample(neighbour(weave_model(tiny.model(), (mug(region=region),), told.append)), *words(clip))
    last = sample(weave_model(neighbour(tiny.model()), (mug(region=region),), told.append), *words(clip))
    assert torch.equal(first, last)
    assert differ(first, sample(neighbour(tiny.model()), *words(clip))) > 0.01
    expected = 6 if region is not None and neighbour is adapter else 7
    assert [reports[0].acted for reports in told] == [expected, expected]


@pytest.mark.parametrize("neighbour", [lora, freeu, adapter, override, hypernetwork])
def test_without_the_word_the_neighbour_draws_the_same_bits(neighbour):
    clip = weave_clip(tiny.clip(), (mug(),))
    plain = sample(neighbour(tiny.model()), *words(clip, "a mug"))
    assert torch.equal(sample(weave_model(neighbour(tiny.model()), (mug(),)), *words(clip, "a mug")), plain)


def test_a_patch_that_parts_keys_and_values_gets_the_concept_in_both():
    clip = weave_clip(tiny.clip(), (mug(),))
    seen = []
    model = weave_model(hypernetwork(tiny.model()), (mug(),))
    model.set_model_attn2_patch(lambda n, context, value, extra: seen.append((context, value)) or (n, context, value))
    sample(model, *words(clip), steps=1, cfg=1.0)
    rows = list(tiny.concept().parts[0].rows.values())[0]
    context, value = seen[0]
    assert torch.allclose(context[0, 2], rows[0]) and torch.allclose(value[0, 2], rows[0])


@pytest.mark.parametrize("region", [None, torch.ones(8, 8)])
def test_torch_compile_draws_the_same_picture_with_another_strength_each_time(region):
    for strength in (1.0, 0.4):
        placed = mug(strength=strength, region=region)
        clip = weave_clip(tiny.clip(), (placed,))
        plain = sample(weave_model(tiny.model(), (placed,)), *words(clip))
        assert differ(sample(compiled(weave_model(tiny.model(), (placed,))), *words(clip)), plain) < 1e-4
        assert differ(sample(weave_model(compiled(tiny.model()), (placed,)), *words(clip)), plain) < 1e-4


def test_a_master_stays_fp32_on_a_narrow_model():
    with torch.inference_mode():
        model = tiny.fresh_model(dtype=torch.float16, manual=torch.float32)
    before = tiny.concept().hash
    clip = weave_clip(tiny.clip(), (mug(),))
    sample(weave_model(model, (mug(),)), *words(clip))
    assert tiny.concept().hash == before
    assert all(tensor.dtype == torch.float32 for tensor in tiny.concept().tensors().values())
