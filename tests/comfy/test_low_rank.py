"""Low-rank layers through ComfyUI's own nodes: merged as any LoRA, or acting only in samples that hold the word."""

from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.checkpoint import load, save
from concept_loom.personalization.comfyui.acting_block import ActingBlock
from concept_loom.personalization.comfyui.family import sites_of
from concept_loom.personalization.comfyui.fingerprint import fingerprint_of
from concept_loom.personalization.comfyui.low_rank import merged_sites
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.parts.low_rank import LowRank

from . import tiny
from .test_prompt_to_picture import LONG, Canvas, differ, encode, picture, sample

FAMILIES = pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
LEFT = torch.zeros(64, 64)
LEFT[:, :32] = 1
NEARLY = {"start": 0.0, "end": 0.999}  # a window around every step: the activation form


def next_key(how):
    return next(iter(how)) if isinstance(how, dict) else None


def placed(word="mug", family="SD 1.5", rank=3, sparing=False, learned_as="subject", **how):
    concept = tiny.low_rank(tiny.concept(word, word, family), rank)
    return PlacedConcept(replace(concept, info=replace(concept.info, role=learned_as)), sparing=sparing, **how)


def embedded(word="mug", family="SD 1.5"):
    return PlacedConcept(tiny.without_parts(tiny.concept(word, word, family)))


def drawn(*placed, text="a photo of <mug>", family="SD 1.5", **how):
    canvas = Canvas(*placed, family=family)
    return picture(canvas.model, canvas.clip, text, **how), canvas


@FAMILIES
def test_merged_is_activation_where_every_sample_holds_the_word(family):
    text = "a photo of <mug>"
    merged, one = drawn(placed(family=family), family=family, negative=text)
    acting, other = drawn(placed(family=family, sparing=True, learned_as="style"), family=family, negative=text)
    plain, _ = drawn(embedded(family=family), family=family, negative=text)
    assert merged_sites(one.model) and not merged_sites(other.model)
    assert differ(acting, merged) < 1e-3 < 0.1 < differ(merged, plain)
    for canvas in (one, other):
        assert canvas.report().cause == "" and canvas.report().acted == canvas.report().sites > 0


@FAMILIES
@pytest.mark.parametrize("sparing", [False, True])
def test_strength_0_is_the_class_word_bit_for_bit(family, sparing):
    off, canvas = drawn(placed(family=family, strength=0.0, sparing=sparing), family=family)
    assert torch.equal(off, picture(tiny.model(family), tiny.clip(family), "a photo of mug"))
    assert canvas.report().cause == "strength" and not canvas.model.patches


@FAMILIES
def test_the_base_is_bit_identical_after_a_merged_and_an_acting_picture(family):
    model = tiny.model(family)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    plain = picture(model, tiny.clip(family), "a photo of mug")
    for sparing in (False, True):
        drawn(placed(family=family, sparing=sparing), family=family)
        assert torch.equal(picture(model, tiny.clip(family), "a photo of mug"), plain)
        assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
        assert not any(isinstance(b.__dict__.get("forward"), ActingBlock) for b in blocks(model))
        assert not any(module._forward_hooks for module in model.model.modules())


def blocks(model):
    return [block for _, block in sites_of(model.model.diffusion_model)]


@pytest.mark.parametrize("how", [{"sparing": True}, NEARLY, {"region": torch.ones(64, 64)}], ids=next_key)
@pytest.mark.parametrize("negative", ["blurry", LONG])
def test_beside_the_weights_other_conditionings_keep_their_bits(how, negative):
    canvas = Canvas(placed(**how))
    words = encode(canvas.clip, "a <mug>"), encode(canvas.clip, negative)
    other, plain = (sample(model, *words, batch=2, cfg=0.0) for model in (canvas.model, tiny.model()))
    assert torch.equal(other, plain)
    assert canvas.report().acted == 7


def test_merged_layers_are_in_every_conditioning_as_a_lora_is():
    canvas, text = Canvas(placed()), "a cup"
    same, _ = drawn(placed(sparing=True), text=text)
    plain = picture(tiny.model(), tiny.clip(), text)
    assert torch.equal(same, plain)
    assert differ(picture(canvas.model, canvas.clip, text), plain) > 0.01
    report = canvas.report()
    assert report.cause == "word" and report.warns and report.acted == 7
    assert "merged layers, at 7 of 7 sites and in every prompt" in report.sentence


@pytest.mark.parametrize("sparing", [False, True])
def test_the_effect_rises_with_strength(sparing):
    start, effects = picture(tiny.model(), tiny.clip(), "a mug"), []
    for strength in (0.05, 0.2, 0.5, 1.0):
        effects.append((drawn(placed(strength=strength, sparing=sparing), text="a <mug>")[0] - start).norm().item())
    assert effects == sorted(effects) and effects[0] > 0


def test_a_prompt_weight_multiplies_strength_beside_the_weights():
    half, _ = drawn(placed(strength=0.5, sparing=True), text="a (<mug>:1.6)")
    same, _ = drawn(placed(strength=0.8, sparing=True), text="a <mug>")
    assert differ(half, same) < 1e-4


def test_outside_its_window_it_does_nothing():
    late, canvas = drawn(placed(start=0.5, end=0.6), text="a <mug>")
    assert differ(late, drawn(embedded(), text="a <mug>")[0]) < 1e-4 and canvas.report().cause == "window"


def test_a_region_of_the_whole_picture_is_no_region_and_half_of_it_is_less():
    free, whole, half, none = (
        drawn(one, text="a <mug>")[0]
        for one in (
            placed(sparing=True),
            *(placed(sparing=True, region=one) for one in (torch.ones(64, 64), LEFT)),
            embedded(),
        )
    )
    assert differ(whole, free) < 1e-4 < 0.01 < differ(half, free)
    assert differ(half, none) > 0.01


def test_a_region_ends_where_it_ends_in_the_block_itself():
    whole = tiny.low_rank(tiny.concept())
    site, pairs = list(whole.parts[0].layers.items())[3]
    concept = replace(whole, parts=(LowRank({site: pairs}),))  # the only one, so that its input is the plain model's
    outputs = {}
    with training_session(tiny.model(), tiny.clip()) as (backbone, encoder), torch.no_grad():
        block = dict(zip([s.site for s in backbone.base.sites], blocks(tiny.model()), strict=True))[site]
        x, sigma = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.ones(1)
        for name, region in (("half", LEFT), ("none", torch.zeros(64, 64)), ("all", None)):
            one = (PlacedConcept(concept, region=region),)
            hook = block.register_forward_hook(lambda block, given, out, name=name: outputs.update({name: out}))
            backbone.predict(x, sigma, [encoder.encode("a <mug>", one)], one)
            hook.remove()
    half, none, everywhere = (outputs[name].unflatten(1, (-1, 8)) for name in ("half", "none", "all"))  # 8 x 8 here
    assert torch.equal(half[:, :, 4:], none[:, :, 4:]) and not torch.equal(half[:, :, :4], none[:, :, :4])
    torch.testing.assert_close(half[:, :, :4], everywhere[:, :, :4])


@pytest.mark.parametrize("text", ["a <mug> on the beach", "(<mug>:1.2) beside a <mug>", f"a <mug>, {LONG}"])
def test_used_sparingly_a_subject_changes_keys_and_values_of_its_own_phrase_alone(text):
    own, slots = rows_changed(placed(sparing=True), text)
    every, _ = rows_changed(placed(sparing=True, learned_as="style"), text)
    assert own == {row for one in slots for rows in (one.rows, one.category) for row in rows["l"]}
    assert 2 * len(slots) <= len(own) < len(every) and every == set(range(max(every) + 1))


def rows_changed(one, text):
    """Rows in which a layer that reads the prompt gives something else than its weights do; where the word stands."""
    layer, found = blocks(tiny.model())[3].attn2.to_v, set()

    def look(module, given, out):
        plain = torch.nn.functional.linear(given[0], module.weight, module.bias)
        found.update((out - plain).abs().amax((0, 2)).gt(1e-4).nonzero()[:, 0].tolist())

    with training_session(tiny.model(), tiny.clip()) as (backbone, encoder), torch.no_grad():
        hook, context = layer.register_forward_hook(look), encoder.encode(text, (one,))
        backbone.predict(torch.ones(1, 4, 16, 16), torch.ones(1), [context], (one,))
        hook.remove()
    return found, context.slots


def test_composed_again_the_same_word_replaces_and_order_does_not_matter():
    mug, hat, text = placed(), placed("hat"), "<mug> under <hat>"
    both, _ = drawn(mug, hat, text=text)
    canvas = Canvas(hat, model=weave_model(tiny.model(), (replace(mug, strength=0.3), hat)))
    again = weave_model(canvas.model, (mug,))
    clip = Canvas(mug, hat).clip
    assert torch.equal(picture(again, clip, text), both)
    sparing = weave_model(again, (replace(mug, sparing=True), replace(hat, sparing=True)))
    assert not sparing.patches and differ(picture(sparing, clip, text), both) > 1e-3


def test_composing_on_a_model_that_has_just_drawn_acts_too():
    mug, hat, text = placed(sparing=True), placed("hat", sparing=True), "<mug> under <hat>"
    clip = Canvas(mug, hat).clip
    fresh = picture(weave_model(tiny.model(), (mug, hat)), clip, text)
    first = weave_model(tiny.model(), (mug,))
    picture(first, clip, text)
    again = weave_model(first, (hat,))
    assert torch.equal(picture(again, clip, text), fresh)
    assert torch.equal(picture(again.clone(), clip, text), fresh)
    back = weave_model(again, (replace(mug, sparing=False), replace(hat, sparing=False)))
    merged = picture(back, clip, text)
    assert torch.equal(picture(weave_model(tiny.model(), (placed(), placed("hat"))), clip, text), merged)
    assert torch.equal(picture(weave_model(back, (mug, hat)), clip, text), fresh)


def test_beside_a_pack_that_tiles_the_picture_it_acts_on_its_own_samples():
    tiled = tiny.model().clone()  # as HyperTile does: two tiles of every sample side by side in the batch
    tiled.set_model_attn1_patch(lambda n, k, v, extra: [n.reshape(len(n) * 2, -1, n.shape[-1])] * 3)
    tiled.set_model_attn1_output_patch(lambda out, extra: out.reshape(len(out) // 2, -1, out.shape[-1]))
    canvas, plain = Canvas(placed(sparing=True), model=tiled), Canvas(embedded(), model=tiled)
    words = encode(canvas.clip, "a <mug>"), encode(canvas.clip, "blurry")
    with_it, without = ([sample(c.model, *words, cfg=cfg) for cfg in (0.0, 4.0)] for c in (canvas, plain))
    assert torch.equal(with_it[0], without[0]) and differ(with_it[1], without[1]) > 0.01


def test_a_lora_of_another_pack_stays_beside_it():
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    other = tiny.model().clone()
    change = torch.randn(other.model.state_dict()[key].shape, generator=torch.Generator().manual_seed(1))
    other.add_patches({key: (0.1 * change,)}, 1.0)
    canvas = Canvas(placed(), model=other)
    assert len(canvas.model.patches[key]) == 2 and len(other.patches[key]) == 1
    assert weave_model(canvas.model, (placed(strength=0.0),)).patches[key] == other.patches[key]
    assert fingerprint_of(canvas.model) == fingerprint_of(other) != fingerprint_of(tiny.model())


def test_a_model_with_other_widths_is_refused_by_name():
    concept = tiny.low_rank(tiny.concept())
    site, pairs = next(iter(concept.parts[0].layers.items()))
    narrow = pairs["ff.net.2"]._replace(a=pairs["ff.net.2"].a[:, :-1])
    part = LowRank({**concept.parts[0].layers, site: {**pairs, "ff.net.2": narrow}})
    with pytest.raises(ValueError, match=r"changes ff\.net\.2 at input\.1\.0"):
        weave_model(tiny.model(), (PlacedConcept(replace(concept, parts=(part,))),))


@FAMILIES
@pytest.mark.parametrize("checkpoint", [False, True], ids=["plain", "checkpointed"])
def test_gradients_reach_every_layer_from_samples_with_the_word_only(family, checkpoint):
    concept = tiny.low_rank(tiny.concept(family=family))
    tensors = {
        name: tensor.clone().requires_grad_(name.startswith("low_rank")) for name, tensor in concept.tensors().items()
    }
    composition = (PlacedConcept(concept.with_tensors(tensors)),)
    with training_session(tiny.model(family), tiny.clip(family), checkpoint) as (backbone, encoder):
        contexts = [encoder.encode(text, composition) for text in ("a <mug>", "a mug")]
        x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        sigma = torch.tensor([3.0, 3.0])
        out = backbone.predict(x, sigma, contexts, composition)
        with torch.no_grad():
            plain = backbone.predict(x, sigma, contexts)
        assert torch.equal(out[1], plain[1]) and not torch.equal(out[0], plain[0])
        out[0].square().mean().backward()
    grads = {name: tensor.grad for name, tensor in tensors.items() if tensor.requires_grad}
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())
    if checkpoint:
        again = {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in tensors.items()}
        composition = (PlacedConcept(concept.with_tensors(again)),)
        with training_session(tiny.model(family), tiny.clip(family)) as (backbone, encoder):
            contexts = [encoder.encode(text, composition) for text in ("a <mug>", "a mug")]
            backbone.predict(x, sigma, contexts, composition)[0].square().mean().backward()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, again[name].grad)


def test_a_session_on_a_composed_model_learns_on_the_model_alone():
    woven = weave_model(tiny.model(), (placed(),))
    with training_session(woven, tiny.clip()) as (denoiser, encoder), torch.no_grad():
        noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(1)
        seen = denoiser.predict(noised, sigma, [encoder.encode("a cup")])
    with training_session(tiny.model(), tiny.clip()) as (denoiser, encoder), torch.no_grad():
        assert torch.equal(denoiser.predict(noised, sigma, [encoder.encode("a cup")]), seen)


def test_the_file_keeps_every_layer(tmp_path):
    made = tiny.low_rank(tiny.concept(family="SDXL"))
    save(made, tmp_path / "mug.safetensors")
    loaded = load(tmp_path / "mug.safetensors")
    assert loaded.hash == made.hash and set(loaded.tensors()) == set(made.tensors())
    assert "low_rank.input.1.0.ff.net.0.proj.a" in made.tensors()
