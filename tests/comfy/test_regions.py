"""Regions in the picture: a concept's rows that only some positions see."""

import pytest
import torch
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.composition import PlacedConcept

import nodes

from . import tiny
from .test_prompt_to_picture import Canvas, area, differ, encode, mug, other, sample

LEFT = torch.zeros(64, 64)
LEFT[:, :32] = 1
NOWHERE, EVERYWHERE = torch.zeros(64, 64), torch.ones(64, 64)


def draw(*placed, text="a <mug>", negative="blurry", **how):
    canvas = Canvas(*placed)
    return sample(canvas.model, encode(canvas.clip, text), encode(canvas.clip, negative), steps=1, **how), canvas


def first_attention(*placed, text="a <mug>"):
    """What attn2 of the first site gives for the prompt, (c, h, w): later layers mix the whole picture."""
    seen = []
    canvas = Canvas(*placed)
    canvas.model.set_model_attn2_output_patch(lambda n, extra: seen.append(n.clone()) or n)
    words = encode(canvas.clip, text), encode(canvas.clip, "blurry")
    sample(canvas.model, *words, steps=1, cfg=1.0)
    return seen[0][0].T.reshape(-1, 16, 16)


def test_a_region_of_the_whole_picture_is_no_region():
    inside, canvas = draw(mug(region=EVERYWHERE))
    free, _ = draw(mug())
    assert differ(inside, free) < 1e-4 and canvas.report().acted == 7


def test_an_empty_region_leaves_the_encoded_prompt():
    nowhere, _ = draw(mug(region=NOWHERE))
    embedded, _ = draw(PlacedConcept(tiny.without_parts(tiny.concept())))
    assert differ(nowhere, embedded) < 1e-4


def test_a_hard_region_acts_inside_and_not_outside():
    inside, free, nowhere = (first_attention(mug(region=region)) for region in (LEFT, EVERYWHERE, NOWHERE))
    assert differ(inside[..., :8], free[..., :8]) < 1e-5
    assert differ(inside[..., 8:], nowhere[..., 8:]) < 1e-5
    assert differ(free, nowhere) > 0.1


def test_a_soft_region_lies_between():
    nowhere = first_attention(mug(region=NOWHERE))
    effects = [(first_attention(mug(region=much * EVERYWHERE)) - nowhere).norm() for much in (0.25, 0.5, 1.0)]
    assert effects == sorted(effects) and effects[0] > 0


@pytest.mark.parametrize("negative", ["blurry", "many things, " * 40])
def test_the_negative_half_is_untouched_by_a_region(negative):
    canvas = Canvas(mug(region=LEFT))
    positive, negative = encode(canvas.clip, "a <mug>"), encode(canvas.clip, negative)
    drawn, plain = (sample(model, positive, negative, cfg=0.0) for model in (canvas.model, tiny.model()))
    assert torch.equal(drawn, plain)


def test_two_concepts_in_two_regions_stay_on_their_sides():
    text = "<mug> and <hat>"

    def attention(mugs, hats):
        return first_attention(mug(region=mugs), other(region=hats), text=text)

    both, no_hat, no_mug = attention(LEFT, 1 - LEFT), attention(LEFT, NOWHERE), attention(NOWHERE, 1 - LEFT)
    assert differ(both[..., :8], no_hat[..., :8]) < 1e-5 and differ(both[..., 8:], no_mug[..., 8:]) < 1e-5
    assert differ(both[..., 8:], no_hat[..., 8:]) > 0.1


def test_a_region_beside_a_concept_without_one():
    both, canvas = draw(mug(region=LEFT), other(), text="<mug> and <hat>")
    assert canvas.report("mug").acted == canvas.report("hat").acted == 7
    assert torch.isfinite(both).all()


def test_a_region_holds_over_the_picture_also_in_an_area():
    """The right half as an area: a region that fills the picture's right half fills all of that area."""
    canvas, whole = Canvas(mug(region=1 - LEFT)), Canvas(mug())
    negative = encode(canvas.clip, "blurry")

    def in_right_half(one):
        positive = area(encode(one.clip, "a <mug>"), 16, 8, 0, 8) + encode(one.clip, "a tree")
        return sample(one.model, positive, negative, steps=1)

    assert differ(in_right_half(canvas), in_right_half(whole)) < 1e-4
    nowhere = Canvas(mug(region=LEFT))
    assert differ(in_right_half(nowhere), in_right_half(whole)) > 0.01


def test_an_attention_override_of_another_pack_still_runs():
    seen = []

    def override(func, *args, **kwargs):
        seen.append(args[1].shape[1])
        return func(*args, **kwargs)

    model = tiny.model().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    canvas = Canvas(mug(region=LEFT))
    woven = weave_model(model, (mug(region=LEFT),))
    words = encode(canvas.clip, "a <mug>"), encode(canvas.clip, "blurry")
    assert torch.equal(sample(woven, *words), sample(canvas.model, *words))
    assert 78 in seen and 77 in seen


def test_a_site_that_another_pack_replaces_is_named_and_not_widened():
    def replacement(q, k, v, extra):
        assert k.shape[1] == 77
        return torch.zeros_like(q)

    told = []
    model = tiny.model().clone()
    model.set_model_attn2_replace(replacement, "middle", 0)
    model = weave_model(model, (mug(region=LEFT),), told.append)
    canvas = Canvas(mug(region=LEFT))
    sample(model, encode(canvas.clip, "a <mug>"), encode(canvas.clip, "blurry"))
    assert told[0][0].acted == 6 and "another pack" in told[0][0].sentence


def test_masked_conditionings_and_regions_work_together():
    canvas = Canvas(mug(region=LEFT))
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    top = nodes.ConditioningSetMask().append(encode(canvas.clip, "a <mug>"), mask, "default", 1.0)[0]
    rest = nodes.ConditioningSetMask().append(encode(canvas.clip, "a tree"), 1 - mask, "default", 1.0)[0]
    drawn = sample(canvas.model, top + rest, encode(canvas.clip, "blurry"), steps=1)
    plain = sample(tiny.model(), top + rest, encode(canvas.clip, "blurry"), steps=1)
    assert torch.equal(drawn[:, :, 8:], plain[:, :, 8:]) and differ(drawn, plain) > 0.01
