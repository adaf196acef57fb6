"""Tokens that concepts bring along, through ComfyUI's own nodes: they act where the word is, and nowhere else."""

from dataclasses import replace

import comfy_extras.nodes_pag as pag
import pytest
import torch
from concept_loom.personalization.comfyui.backbone import Backbone
from concept_loom.personalization.comfyui.prompt_encoder import ClipPromptEncoder
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.denoiser import Observer
from concept_loom.personalization.guests import GUESTS
from concept_loom.personalization.parts import ImageTokens

from . import tiny
from .test_prompt_to_picture import LONG, Canvas, differ, encode, picture, sample

KINDS = pytest.mark.parametrize("kind", GUESTS)
LEFT = torch.zeros(64, 64)
LEFT[:, :32] = 1


def placed(kind, word="mug", family="SD 1.5", **how):
    return PlacedConcept(tiny.guest(kind, tiny.concept(word, word, family)), **how)


def embedded(word="mug", family="SD 1.5"):
    return PlacedConcept(tiny.without_parts(tiny.concept(word, word, family)))


@KINDS
@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_they_act_at_every_site(kind, family):
    canvas, plain = Canvas(placed(kind, family=family), family=family), Canvas(embedded(family=family), family=family)
    drawn = picture(canvas.model, canvas.clip, "a photo of <mug>")
    assert differ(drawn, picture(plain.model, plain.clip, "a photo of <mug>")) > 0.05
    report = canvas.report()
    assert report.acted == report.sites == len(tiny.concept(family=family).parts[0].sites)


@KINDS
def test_without_the_word_the_picture_is_the_same_bit_for_bit(kind):
    canvas = Canvas(placed(kind))
    plain = picture(tiny.model(), tiny.clip(), "a photo of a mug", LONG)
    assert torch.equal(picture(canvas.model, canvas.clip, "a photo of a mug", LONG), plain)


@KINDS
@pytest.mark.parametrize("negative", ["blurry", LONG])
def test_the_other_half_of_the_batch_is_untouched(kind, negative):
    canvas = Canvas(placed(kind))
    words = encode(canvas.clip, "a <mug>"), encode(canvas.clip, negative)
    drawn, plain = (sample(model, *words, batch=2, cfg=0.0) for model in (canvas.model, tiny.model()))
    assert torch.equal(drawn, plain)


@KINDS
def test_their_effect_rises_with_strength(kind):
    effects, start = [], picture(tiny.model(), tiny.clip(), "a mug")
    for strength in (0.05, 0.2, 0.5, 1.0):
        canvas = Canvas(placed(kind, strength=strength))
        effects.append((picture(canvas.model, canvas.clip, "a <mug>") - start).norm().item())
    assert effects == sorted(effects) and effects[0] > 0


def test_image_tokens_are_the_same_with_a_mask_that_hides_nothing():
    """At strength 1 none is made; a region that is everywhere needs one."""
    whole, everywhere = Canvas(placed(ImageTokens)), Canvas(placed(ImageTokens, region=torch.ones(64, 64)))
    drawn, same = (picture(one.model, one.clip, "a <mug>") for one in (whole, everywhere))
    assert differ(drawn, same) < 1e-4


@KINDS
def test_outside_their_window_they_do_nothing(kind):
    canvas, plain = Canvas(placed(kind, start=0.5, end=0.6)), Canvas(embedded())
    drawn, start = (picture(one.model, one.clip, "a <mug>", steps=2) for one in (canvas, plain))
    assert differ(drawn, start) < 0.01 and canvas.report().cause == "window"


@KINDS
def test_two_concepts_bring_their_own_and_order_does_not_matter(kind):
    one, other = placed(kind), placed(kind, "hat")
    both, reverse = Canvas(one, other), Canvas(other, one)
    drawn, again = (picture(canvas.model, canvas.clip, "<mug> under <hat>") for canvas in (both, reverse))
    assert torch.equal(drawn, again)
    assert both.report("mug").acted == both.report("hat").acted == 7


@KINDS
def test_a_region_of_the_whole_picture_is_no_region_and_half_of_it_is_less(kind):
    free, whole, half = (Canvas(placed(kind, region=r)) for r in (None, torch.ones(64, 64), LEFT))
    a, b, c = (picture(one.model, one.clip, "a <mug>") for one in (free, whole, half))
    assert differ(b, a) < 1e-4 < 0.01 < differ(c, a)


def test_all_parts_of_a_concept_act_beside_a_regional_one():
    parts = [tiny.concept().parts, *(tiny.guest(kind, tiny.concept()).parts for kind in GUESTS)]
    mug = PlacedConcept(replace(tiny.concept(), parts=sum(parts, ())))
    hat = PlacedConcept(tiny.concept("hat", "hat"), region=LEFT)
    canvas, alone = Canvas(mug, hat), Canvas(mug, replace(hat, strength=0.0))
    drawn, less = (picture(one.model, one.clip, "<mug> under <hat>") for one in (canvas, alone))
    assert torch.isfinite(drawn).all() and differ(drawn, less) > 0.01
    assert canvas.report("mug").acted == canvas.report("hat").acted == 7


def test_where_a_node_replaces_the_attention_the_report_says_so():
    model = pag.PerturbedAttentionGuidance.execute(tiny.model(), 3.0)[0]
    canvas = Canvas(placed(ImageTokens), model=model)
    picture(canvas.model, canvas.clip, "a <mug>")
    assert canvas.report().acted == 7  # PAG replaces it in a call of its own, and there the middle block is left alone
    owner = tiny.model().clone()
    for number in (1, 2):
        owner.set_model_attn1_replace(lambda q, k, v, extra: v, "input", number)
    canvas = Canvas(placed(ImageTokens), model=owner)
    picture(canvas.model, canvas.clip, "a <mug>")
    report = canvas.report()
    assert report.acted < report.sites and "another pack owns" in report.sentence


@KINDS
def test_who_owns_the_text_attention_is_told_only_to_those_who_need_it(kind):
    owner = tiny.model().clone()
    for block, number in [*(("input", n) for n in range(12)), ("middle", 0), *(("output", n) for n in range(12))]:
        owner.set_model_attn2_replace(lambda q, k, v, extra: v.mean(1, keepdim=True).expand_as(q), block, number)
    canvas = Canvas(placed(kind), model=owner)
    picture(canvas.model, canvas.clip, "a <mug>")
    report = canvas.report()
    assert report.acted == (7 if kind is ImageTokens else 0)
    assert ("acted at 7 of 7" in report.sentence and "owns" not in report.sentence) == (kind is ImageTokens)


@KINDS
def test_gradients_reach_every_site_and_only_samples_with_the_word(kind):
    concept = tiny.guest(kind, tiny.concept())
    tensors = {
        name: tensor.clone().requires_grad_(name.startswith(kind.kind)) for name, tensor in concept.tensors().items()
    }
    composition = (PlacedConcept(concept.with_tensors(tensors)),)
    encoder, backbone = ClipPromptEncoder(tiny.clip()), Backbone(tiny.model())
    contexts = [encoder.encode(text, composition) for text in ("a <mug>", "a mug")]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([3.0, 3.0])
    out = backbone.predict(x, sigma, contexts, composition)
    with torch.no_grad():
        plain = backbone.predict(x, sigma, contexts)
    assert torch.equal(out[1], plain[1]) and not torch.equal(out[0], plain[0])
    out[0].square().mean().backward()
    assert all(t.grad is not None and t.grad.abs().max() > 0 for t in tensors.values() if t.requires_grad)


def test_an_observer_sees_what_the_sites_see():
    encoder, backbone, seen = ClipPromptEncoder(tiny.clip()), Backbone(tiny.model()), {}
    contexts = [encoder.encode("a mug on a table"), encoder.encode("a hat")]
    columns = torch.tensor([[0, 1, 2], [0, 3, 2]])
    x, sigma = torch.randn(2, 4, 16, 16), torch.tensor([3.0, 1.0])
    watched = backbone.predict(x, sigma, contexts, observer=Observer(seen.__setitem__, columns))
    assert torch.equal(watched, backbone.predict(x, sigma, contexts))
    assert list(seen) == [shape.site for shape in backbone.base.sites]
    for shape in backbone.base.sites:
        hidden, shares = seen[shape.site]
        assert hidden.shape[0] == 2 and hidden.shape[2] == shape.width
        assert shares.shape == (2, shape.heads, hidden.shape[1], 3) and shares.dtype == torch.float32
        assert (shares.sum(-1) <= 1 + 1e-5).all() and (shares > 0).all()
    everything = {}
    rows = torch.arange(contexts[0].tensor.shape[1]).expand(2, -1)
    backbone.predict(x, sigma, contexts, observer=Observer(everything.__setitem__, rows))
    assert all(torch.allclose(one.attention.sum(-1), torch.ones(()), atol=1e-4) for one in everything.values())
