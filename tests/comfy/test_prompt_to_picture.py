"""The way of a word through ComfyUI's own nodes: CLIPTextEncode, the conditioning nodes, KSampler."""

from dataclasses import replace

import comfy_extras.nodes_clip_sdxl as sdxl_nodes
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_perpneg as perpneg
import pytest
import torch
from concept_loom.personalization.comfyui.concept_clip import KEY, weave_clip
from concept_loom.personalization.comfyui.patch import composition_of, weave_model
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.guests import GUESTS

import nodes

from . import tiny
from .neighbours import in_windows

LONG = "a very long prompt about many small things, " * 9


class Canvas:
    """A MODEL and a CLIP with concepts composed on them, and what was reported about them."""

    def __init__(self, *placed, family="SD 1.5", model=None, clip=None):
        self.told = []
        self.model = weave_model(model or tiny.model(family), placed, self.told.append)
        self.clip = weave_clip(clip or tiny.clip(family), placed)

    def report(self, word="mug"):
        return next(report for report in self.told[-1] if report.word == word)


def mug(family="SD 1.5", **how):
    return replace(PlacedConcept(tiny.concept(family=family)), **how)


def other(**how):
    return replace(PlacedConcept(tiny.concept("hat", "hat")), **how)


def encode(clip, text):
    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(clip, text)[0]


def sample(model, positive, negative, size=(16, 16), batch=1, steps=2, cfg=4.0, denoise=1.0):
    latent = {"samples": torch.zeros(batch, 4, *size)}
    with torch.inference_mode():
        return nodes.KSampler().sample(
            model, 1, steps, cfg, "euler", "normal", positive, negative, latent, denoise=denoise
        )[0]["samples"]


def picture(model, clip, positive, negative="blurry", **how):
    return sample(model, encode(clip, positive), encode(clip, negative), **how)


def differ(one, two):
    return (one - two).abs().max().item() / two.std().item()


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_a_word_in_the_prompt_acts_at_every_site(family):
    canvas = Canvas(mug(family), family=family)
    plain = picture(tiny.model(family), tiny.clip(family), "a photo of mug")
    drawn = picture(canvas.model, canvas.clip, "a photo of <mug>")
    report = canvas.report()
    assert differ(drawn, plain) > 0.1
    assert report.acted == report.sites == len(tiny.concept(family=family).parts[0].sites)


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_a_focus_acts_where_the_word_is_and_nowhere_else(family):
    for text, changes in (("a photo of <mug>", True), ("a photo of a street", False)):
        plain, focused = (Canvas(mug(family, focus=focus), family=family) for focus in (1.0, 2.0))
        drawn = [picture(canvas.model, canvas.clip, text) for canvas in (plain, focused)]
        assert (differ(*drawn) > 0.01) is changes and torch.equal(*drawn) is not changes


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
@pytest.mark.parametrize("text", ["a photo of {} on a beach", "({}:1.3), at dawn", "{0} and {0}"])
def test_strength_0_is_the_prompt_with_the_class_word_bit_for_bit(family, text):
    canvas = Canvas(mug(family, strength=0.0, focus=2.0), family=family)
    plain = picture(tiny.model(family), tiny.clip(family), text.format("mug"))
    assert torch.equal(picture(canvas.model, canvas.clip, text.format("<mug>")), plain)
    assert canvas.report().cause == "strength"


@pytest.mark.parametrize("before", [0, 60, 70, 74])  # tokens: the phrase begins a chunk of 75, or lies across its end
def test_many_slots_act_at_every_site_wherever_a_prompt_is_cut_into_chunks(before):
    many = tiny.concept(phrase="[V]" * 16 + " {}")
    text = "very " * before + "{} on a beach"
    loud, silent = (Canvas(PlacedConcept(many, strength=strength)) for strength in (1.0, 0.0))
    plain = picture(tiny.model(), tiny.clip(), text.format("mug"))
    drawn = picture(loud.model, loud.clip, text.format("<mug>"))
    report = loud.report()
    assert differ(drawn, plain) > 0.1 and report.acted == report.sites == len(many.parts[0].sites)
    assert torch.equal(picture(silent.model, silent.clip, text.format("<mug>")), plain)


def test_a_composed_model_without_the_word_draws_the_same_bits():
    canvas = Canvas(mug(), other())
    plain = picture(tiny.model(), tiny.clip(), "a photo of a mug", LONG)
    assert torch.equal(picture(canvas.model, canvas.clip, "a photo of a mug", LONG), plain)


def test_the_effect_rises_with_strength():
    plain = picture(tiny.model(), tiny.clip(), "a mug")
    effects = []
    for strength in (0.05, 0.2, 0.5, 1.0):
        canvas = Canvas(mug(strength=strength))
        effects.append((picture(canvas.model, canvas.clip, "a <mug>") - plain).norm().item())
    assert effects == sorted(effects) and effects[0] > 0


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_an_embedding_alone_leads_further_from_the_class_word_the_stronger_it_is(family):
    alone = PlacedConcept(tiny.without_parts(tiny.concept(family=family)))
    plain, effects = picture(tiny.model(family), tiny.clip(family), "a mug"), []
    for strength in (0.0, 0.05, 0.2, 0.5, 1.0):
        canvas = Canvas(replace(alone, strength=strength), family=family)
        effects.append((picture(canvas.model, canvas.clip, "a <mug>") - plain).norm().item())
    assert effects == sorted(set(effects)) and effects[0] == 0


def test_a_prompt_weight_multiplies_strength():
    half, whole = Canvas(mug(strength=0.5)), Canvas(mug(strength=1.0))
    one = picture(half.model, half.clip, "a photo of <mug>")
    assert torch.equal(picture(whole.model, whole.clip, "a photo of (<mug>:0.5)"), one)


def test_compose_twice_is_compose_once_with_both_in_any_order():
    once = Canvas(mug(), other())
    for first, second in ((mug(), other()), (other(), mug())):
        model = weave_model(weave_model(tiny.model(), (first,)), (second,))
        clip = weave_clip(weave_clip(tiny.clip(), (first,)), (second,))
        a = picture(model, clip, "<mug> under <hat>")
        assert torch.equal(a, picture(once.model, once.clip, "<mug> under <hat>"))


def test_the_same_concept_composed_twice_acts_once():
    half = mug(strength=0.5)  # twice would be three quarters
    once = Canvas(half)
    model, clip = weave_model(once.model, (half,)), weave_clip(once.clip, (half,))
    assert torch.equal(picture(model, clip, "a <mug>"), picture(once.model, once.clip, "a <mug>"))


def test_composing_leaves_the_model_it_was_given_alone():
    before = weave_model(tiny.model(), (mug(),))
    after = weave_model(before, (other(),))
    assert [placed.word for placed in composition_of(before)] == ["mug"]
    assert [placed.word for placed in composition_of(after)] == ["hat", "mug"]
    assert composition_of(tiny.model()) == ()


# Only where the conditioning holds the word: a concept in nobody's prompt of these, while others' prompts hold it.


def uncond_effect(canvas, positive, negative, **how):
    """How much the composition changes a picture that is all negative (cfg 0): nothing, when rows stay apart."""
    loud = sample(canvas.model, positive, negative, cfg=0.0, **how)
    plain = sample(tiny.model(), positive, negative, cfg=0.0, **how)
    return differ(loud, plain)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("negative", ["blurry", LONG])
def test_the_negative_half_is_untouched(batch, negative):
    canvas = Canvas(mug())
    positive = encode(canvas.clip, "a photo of <mug>")
    assert uncond_effect(canvas, positive, encode(canvas.clip, negative), batch=batch) == 0
    assert canvas.report().acted == 7


def test_a_word_in_the_negative_acts_on_the_negative_only():
    canvas = Canvas(mug())
    positive, negative = encode(canvas.clip, "a photo"), encode(canvas.clip, "<mug>")
    assert (
        differ(sample(canvas.model, positive, negative, cfg=1.0), sample(tiny.model(), positive, negative, cfg=1.0))
        == 0
    )
    assert uncond_effect(canvas, positive, negative) > 0.1


def test_a_word_in_the_second_chunk_acts_at_its_own_rows():
    canvas = Canvas(mug())
    conditioning = encode(canvas.clip, LONG + " <mug>")
    (slots,) = conditioning[0][1][KEY].slots
    assert conditioning[0][0].shape[1] == 154 and slots.rows["l"][0] > 77
    plain = encode(tiny.clip(), LONG + " mug")
    assert torch.equal(conditioning[0][0][:, : slots.rows["l"][0]], plain[0][0][:, : slots.rows["l"][0]])


def test_a_context_that_is_repeated_to_a_longer_one_acts_as_before():
    """77 rows beside 154: the host repeats the 77, and every copy of the word must be edited."""
    canvas = Canvas(mug())
    positive = encode(canvas.clip, "a photo of <mug>")
    short = sample(canvas.model, positive, encode(canvas.clip, "blurry"), cfg=0.999)
    long = sample(canvas.model, positive, encode(canvas.clip, LONG), cfg=0.999)
    plain = sample(tiny.model(), positive, encode(canvas.clip, "blurry"), cfg=0.999)
    assert differ(long, short) < 0.05 * differ(plain, short)


def area(conditioning, height, width, y, x):
    return nodes.ConditioningSetArea().append(conditioning, width * 8, height * 8, x * 8, y * 8, 1.0)[0]


def test_area_fill_does_not_carry_the_word_into_the_negative():
    """The host fills the negative's missing areas with copies of the positive's dictionary."""
    canvas = Canvas(mug())
    positive = area(encode(canvas.clip, "a <mug>"), 8, 16, 0, 0) + area(encode(canvas.clip, "a tree"), 8, 16, 8, 0)
    assert uncond_effect(canvas, positive, encode(canvas.clip, "blurry")) < 1e-5
    assert canvas.report().acted == 7


@pytest.mark.parametrize("side", ["negative", "positive"])
@pytest.mark.parametrize("other", ["a tree", "a mug"])
def test_area_fill_keeps_the_words_of_the_prompt_that_it_repeats(side, other):
    """Where one side has areas, the host runs the other's whole prompt in each of them too."""
    concept = tiny.concept("mug", "mug", phrase="[V]", trained=False)  # "a <mug>" is encoded as "a mug"
    canvas = Canvas(PlacedConcept(concept))
    whole, top, bottom = (encode(canvas.clip, text) for text in ("a <mug>", other, "a house"))
    halves = area(top, 8, 16, 0, 0) + area(bottom, 8, 16, 8, 0)
    spelt_out = whole + area(whole, 8, 16, 0, 0) + area(whole, 8, 16, 8, 0)
    pairs = [(one, halves) if side == "positive" else (halves, one) for one in (whole, spelt_out)]
    filled, meant = (sample(canvas.model, *pair, steps=1) for pair in pairs)
    assert torch.equal(filled, meant) and differ(filled, sample(tiny.model(), *pairs[0], steps=1)) > 0.1


def test_masked_conditionings_keep_their_words_apart():
    canvas = Canvas(mug())
    mask = torch.zeros(1, 16, 16)
    mask[:, :, :8] = 1
    left = nodes.ConditioningSetMask().append(encode(canvas.clip, "a <mug>"), mask, "default", 1.0)[0]
    right = nodes.ConditioningSetMask().append(encode(canvas.clip, "a tree"), 1 - mask, "default", 1.0)[0]
    negative = encode(canvas.clip, "blurry")
    drawn = sample(canvas.model, left + right, negative, steps=1)
    plain = sample(tiny.model(), left + right, negative, steps=1)
    assert differ(drawn[..., 8:], plain[..., 8:]) == 0 and differ(drawn[..., :8], plain[..., :8]) > 0.1


def advanced(guider, steps=2):
    with torch.inference_mode():
        noise = custom.RandomNoise.execute(1)[0]
        sampler = custom.KSamplerSelect.execute("euler")[0]
        sigmas = custom.BasicScheduler.execute(tiny.model(), "normal", steps, 1.0)[0]
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)[0]["samples"]


def test_dual_cfg_acts_on_the_conditioning_with_the_word_only():
    """DualCFG puts the negative first: acting by list position would hit it."""
    canvas = Canvas(mug())
    one, two, negative = (encode(canvas.clip, text) for text in ("a <mug>", "a tree", "blurry"))

    def draw(model, cfg1, cfg2):
        return advanced(custom.DualCFGGuider.execute(model, one, two, negative, cfg1, cfg2, "regular")[0])

    assert differ(draw(canvas.model, 0.0, 0.5), draw(tiny.model(), 0.0, 0.5)) == 0
    assert differ(draw(canvas.model, 1.0, 0.5), draw(tiny.model(), 1.0, 0.5)) > 0.1


def test_perp_neg_acts_on_the_conditioning_with_the_word_only():
    canvas = Canvas(mug())
    positive, negative, empty = (encode(canvas.clip, text) for text in ("a <mug>", "blurry", ""))

    def draw(model, cfg):
        return advanced(perpneg.PerpNegGuider.execute(model, positive, negative, empty, cfg, 0.0)[0])

    assert differ(draw(canvas.model, 0.0), draw(tiny.model(), 0.0)) == 0
    assert differ(draw(canvas.model, 2.0), draw(tiny.model(), 2.0)) > 0.1


def test_sdxl_texts_for_g_and_l_may_put_the_word_at_different_rows():
    canvas = Canvas(mug("SDXL"), family="SDXL")
    encode_xl = sdxl_nodes.CLIPTextEncodeSDXL.execute
    with torch.inference_mode():
        conditioning = encode_xl(canvas.clip, 128, 128, 0, 0, 128, 128, "<mug>", "a very nice <mug>")[0]
    (slots,) = conditioning[0][1][KEY].slots
    assert slots.rows == {"l": (4,), "g": (1,)}
    sample(canvas.model, conditioning, encode(canvas.clip, "blurry"))
    assert canvas.report().acted == canvas.report().sites


def test_a_window_limits_the_steps_and_outside_of_it_nothing_changes():
    whole, first, never = Canvas(mug()), Canvas(mug(end=0.5)), Canvas(mug(start=0.4, end=0.6))
    text = encode(whole.clip, "a <mug>"), encode(whole.clip, "blurry")
    drawn = [sample(canvas.model, *text, steps=4) for canvas in (whole, first, never)]
    plain = sample(tiny.model(), *text, steps=4)
    assert torch.equal(drawn[2], plain)
    assert 0 < differ(drawn[1], plain) != differ(drawn[0], plain)
    assert never.report().cause == "window" and first.report().cause == ""


# Animations: a context per frame, as FizzNodes and AnimateDiff-Evolved schedule prompts.


def scheduled(clip, *texts):
    """In a dictionary of the pack's own."""
    with torch.inference_mode():
        encoded = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in texts]
    return [[torch.cat([cond for cond, _ in encoded]), {"pooled_output": torch.cat([one for _, one in encoded])}]]


@pytest.mark.parametrize("texts", [("a <mug>", "a tree"), ("a tree", "a <mug>"), ("<mug> in snow", "in snow a <mug>")])
@pytest.mark.parametrize("part", ["rows", *(kind.kind for kind in GUESTS), "low rank"])
def test_in_an_animation_a_word_acts_in_the_frames_that_say_it_and_at_their_rows(part, texts):
    kinds = {kind.kind: kind for kind in GUESTS}
    concept = tiny.guest(kinds[part], tiny.concept()) if part in kinds else tiny.concept()
    canvas = Canvas(PlacedConcept(tiny.low_rank(concept) if part == "low rank" else concept))
    negative, prompts = encode(canvas.clip, "blurry"), scheduled(canvas.clip, *texts)
    drawn, plain = (sample(model, prompts, negative, batch=3) for model in (canvas.model, tiny.model()))
    report = canvas.report()
    assert report.acted == 7 and ("in 1 of 2 frames" in report.sentence) == ("a tree" in texts)
    for frame, text in enumerate((*texts, texts[0])):  # ComfyUI begins again where there are fewer contexts
        alone = sample(canvas.model, encode(canvas.clip, text), negative, batch=3)[frame]
        assert differ(drawn[frame], alone) < 1e-4
        assert torch.equal(drawn[frame], plain[frame]) is ("<mug>" not in text)


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("words", [(0, 1), (3,), (1, 2)])
def test_in_windows_over_an_animation_every_frame_keeps_its_own_words(words, anchored):
    """Frames of SD 1.5 do not see each other, so windows side by side draw what one pass over all of them draws."""
    canvas = Canvas(mug())
    texts = ["a <mug>" if frame in words else "a tree" for frame in range(4)]
    negative, prompts = encode(canvas.clip, "blurry"), scheduled(canvas.clip, *texts)
    whole = sample(canvas.model, prompts, negative, batch=4)
    windows = in_windows(canvas.model, 0, "batched", False, anchored)
    assert differ(sample(windows, prompts, negative, batch=4), whole) < 1e-3  # a word in a wrong frame gives 4
    assert f"in {len(words)} of 4 frames" in canvas.report().sentence and canvas.report().acted == 7


def test_frames_of_windows_that_say_the_same_are_all_counted():
    canvas = Canvas(mug())
    prompts = scheduled(canvas.clip, *["a <mug>"] * 4, *["a tree"] * 2)
    sample(in_windows(canvas.model, 0, "batched", False, False), prompts, encode(canvas.clip, ""), batch=6, steps=1)
    assert "in 4 of 6 frames" in canvas.report().sentence


def test_a_frame_that_is_mixed_of_two_prompts_holds_no_word_and_the_report_says_so():
    canvas = Canvas(mug())
    prompts = scheduled(canvas.clip, "a <mug>", "a <mug>", "a tree")
    prompts[0][0][1] = 0.5 * (prompts[0][0][0] + prompts[0][0][2])
    drawn, plain = (sample(model, prompts, encode(canvas.clip, ""), batch=3) for model in (canvas.model, tiny.model()))
    assert [differ(*pair) > 0.05 for pair in zip(drawn, plain, strict=True)] == [True, False, False]
    assert "in 1 of 3 frames" in canvas.report().sentence


# It never silently does nothing.


def cause(canvas, positive, negative=None):
    sample(canvas.model, positive, negative or encode(canvas.clip, "blurry"), steps=1)
    report = canvas.report()
    assert (report.acted == 0) == bool(report.cause) and "<mug>" in report.sentence
    return report.cause


def test_a_word_in_no_prompt_is_reported():
    canvas = Canvas(mug())
    assert cause(canvas, encode(canvas.clip, "a cup")) == "word"


def test_a_clip_that_does_not_come_from_compose_is_reported():
    canvas = Canvas(mug())
    assert cause(canvas, encode(tiny.clip(), "a <mug>"), encode(tiny.clip(), "")) == "clip"


def test_a_clip_that_was_composed_with_other_words_is_reported():
    canvas, hats = Canvas(mug()), weave_clip(tiny.clip(), (other(),))
    assert cause(canvas, encode(hats, "a <mug>"), encode(hats, "")) == "clip"


@pytest.mark.parametrize("change", ["average", "zero out"])
def test_rows_that_a_node_has_changed_are_reported_and_not_acted_on(change):
    canvas = Canvas(mug())
    made = encode(canvas.clip, "a <mug>")
    with torch.inference_mode():
        if change == "average":
            changed = nodes.ConditioningAverage().addWeighted(made, encode(canvas.clip, "a tree"), 0.5)[0]
        else:
            changed = nodes.ConditioningZeroOut().zero_out(made)[0]
    assert cause(canvas, changed) == "rows"


def test_concat_keeps_the_rows_of_the_prompt_that_it_appends_to():
    canvas = Canvas(mug())
    with torch.inference_mode():
        both = nodes.ConditioningConcat().concat(encode(canvas.clip, "a <mug>"), encode(canvas.clip, "a tree"))[0]
    assert cause(canvas, both) == ""


def test_clip_and_model_that_hold_different_concepts_of_one_name_are_reported():
    canvas = Canvas(mug())
    louder = replace(tiny.concept(), embeddings={"l": tiny.concept().embeddings["l"] + 1})
    clip = weave_clip(tiny.clip(), (PlacedConcept(louder),))
    sample(canvas.model, encode(clip, "a <mug>"), encode(clip, ""), steps=1)
    assert canvas.report().cause == "versions"


def test_a_concept_without_parts_acts_through_its_embedding():
    placed = PlacedConcept(tiny.without_parts(tiny.concept()))
    canvas = Canvas(placed)
    drawn = picture(canvas.model, canvas.clip, "a <mug>")
    assert differ(drawn, picture(tiny.model(), tiny.clip(), "a mug")) > 0.01
    assert canvas.report().cause == "" and "embedding" in canvas.report().sentence


def test_a_pack_that_builds_its_own_conditioning_still_carries_the_words():
    canvas = Canvas(mug())
    with torch.inference_mode():
        cond, pooled = canvas.clip.encode_from_tokens(canvas.clip.tokenize("a <mug>"), return_pooled=True)
    assert cause(canvas, [[cond, {"pooled_output": pooled}]]) == ""


def test_a_concept_of_another_family_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="learned for SDXL"):
        weave_model(tiny.model(), (mug("SDXL"),))
    with pytest.raises(ValueError, match="learned for SDXL"):
        weave_clip(tiny.clip(), (mug("SDXL"),))
