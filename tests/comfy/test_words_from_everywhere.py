"""Every way in which a prompt reaches a sampler: the word arrives with it, or what was lost is said."""

from dataclasses import replace

import comfy_extras.nodes_clip_sdxl as sdxl_nodes
import pytest
import torch
from comfy.model_management import load_model_gpu
from concept_loom.personalization.comfyui.concept_clip import KEY, weave_clip
from concept_loom.personalization.comfyui.encoders import encoders_of
from concept_loom.personalization.comfyui.spoken import MEMORY
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.guests import GUESTS
from concept_loom.personalization.parts import NestedValues

import nodes

from . import tiny
from .other_packs import lora
from .test_prompt_to_picture import LONG, Canvas, differ, encode, mug, other, sample


@pytest.fixture(autouse=True)
def nothing_remembered():
    MEMORY.phrases.clear()


@torch.inference_mode()
def by_hand(clip, text):
    """As packs do it that build the conditioning themselves."""
    cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return [[cond, {"pooled_output": pooled}]]


@torch.inference_mode()
def joined(clip, *texts):
    """As BREAK does it: chunks encoded one by one, joined by the pack."""
    made = [clip.encode_from_tokens(clip.tokenize(text), return_pooled=True) for text in texts]
    return [[torch.cat([cond for cond, _ in made], dim=1), {"pooled_output": made[0][1]}]]


@torch.inference_mode()
def extended(clip, *texts):
    """As prompt-control's BREAK does it: chunks tokenised one by one, encoded together."""
    tokens, *rest = (clip.tokenize(text) for text in texts)
    for more in rest:
        for encoder, batches in more.items():
            tokens[encoder].extend(batches)
    return clip.encode_from_tokens_scheduled(tokens)


@torch.inference_mode()
def past_the_clip(clip, text):
    """As packs do it that weigh tokens their own way: each text encoder asked by itself."""
    tokens = clip.tokenize(text)
    load_model_gpu(clip.patcher)
    encoders = [(getattr(clip.cond_stage_model, f"clip_{key}"), tokens[key]) for key in "lhg" if key in tokens]
    made = [encoder.encode_token_weights(batches) for encoder, batches in encoders]
    return [[torch.cat([cond for cond, _ in made], dim=-1), {"pooled_output": made[-1][1]}]]


@torch.inference_mode()
def concat(clip, to, other_text):
    return nodes.ConditioningConcat().concat(encode(clip, to), encode(clip, other_text))[0]


@torch.inference_mode()
def moved(clip, text):
    return [[cond.to(torch.float16).clone(), extra] for cond, extra in by_hand(clip, text)]


WAYS = {
    "concat to": lambda clip: concat(clip, "a <mug>", "a tree"),
    "concat from": lambda clip: concat(clip, "a tree", "a <mug>"),
    "long": lambda clip: encode(clip, LONG + "<mug>"),
    "by hand": lambda clip: by_hand(clip, "a <mug>"),
    "by hand, moved": lambda clip: moved(clip, "a <mug>"),
    "break, first": lambda clip: joined(clip, "a <mug>", "a tree"),
    "break, last": lambda clip: joined(clip, "a tree", LONG, "a nice <mug>"),
    "break, both": lambda clip: extended(clip, "a <mug>", "a nice <mug>"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_word_arrives_and_acts(way):
    canvas = Canvas(mug())
    positive, negative = WAYS[way](canvas.clip), encode(canvas.clip, "blurry")
    drawn = sample(canvas.model, positive, negative)
    assert canvas.report().acted == canvas.report().sites == 7 and not canvas.report().cause
    assert differ(drawn, sample(tiny.model(), positive, negative)) > 0.01


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_a_word_acts_where_a_pack_asks_the_text_encoders_past_the_clip(family):
    canvas, plain = Canvas(mug(family), family=family), tiny.clip(family)
    ordinary = encode(plain, "blurry")  # another CLIP on the same weights is loaded in between
    made = past_the_clip(canvas.clip, "a nice <mug>")
    drawn = sample(canvas.model, made, encode(plain, "blurry"), steps=1)
    assert canvas.report().acted == canvas.report().sites
    usual = encode(canvas.clip, "a nice <mug>")
    assert torch.equal(made[0][0], usual[0][0])
    assert torch.equal(drawn, sample(canvas.model, usual, ordinary, steps=1))


@pytest.mark.parametrize("concept", [tiny.concept, lambda: tiny.low_rank(tiny.concept())], ids=["rows", "low rank"])
@pytest.mark.parametrize("way", ["by hand", "break, first"])
def test_the_word_is_at_its_own_rows_whoever_built_the_conditioning(way, concept):
    """The same tensor with our mark on it draws the same picture."""
    canvas = Canvas(PlacedConcept(concept()))
    positive, negative = WAYS[way](canvas.clip), encode(canvas.clip, "blurry")
    marked = [[cond.clone(), {**extra, KEY: encode(canvas.clip, "a <mug>")[0][1][KEY]}] for cond, extra in positive]
    drawn = sample(canvas.model, positive, negative, steps=1)
    assert torch.equal(drawn, sample(canvas.model, marked, negative, steps=1))


def test_concat_draws_the_appended_word_at_the_rows_behind():
    (cond, _), *_ = concat(Canvas(mug()).clip, "a tree", "a <mug>")
    found = list(MEMORY.find(cond, {"l": slice(0, 768)}, {tiny.concept().hash}, surely=False))
    assert [one.rows for one in found] == [{"l": (79,)}] and [one.category for one in found] == [{"l": (80,)}]


def bare(concept):
    return replace(concept, embeddings={})


def frozen(concept):
    """As quick, layerwise and nested learn it: every slot keeps the class word's embedding."""
    vectors = {key: one.class_embedding(concept.info.class_word)[None] for key, one in encoders_of(tiny.clip()).items()}
    return replace(concept, embeddings=vectors)


@pytest.mark.parametrize("keep", [bare, frozen])
@pytest.mark.parametrize("phrase", ["[V]", "[V] style"])
def test_an_ordinary_prompt_that_reads_the_same_is_left_alone(phrase, keep):
    """A slot that holds its class word's embedding is encoded as its class word."""
    placed = PlacedConcept(keep(tiny.concept("cup", "cup", phrase=phrase)))
    canvas = Canvas(placed)
    made = encode(canvas.clip, "a <cup>")
    plain = encode(tiny.clip(), f"a {phrase.replace('[V]', 'cup')}")
    assert torch.equal(made[0][0], plain[0][0])
    negative = encode(tiny.clip(), "blurry")
    assert torch.equal(sample(canvas.model, plain, negative), sample(tiny.model(), plain, negative))
    sample(canvas.model, made, negative)
    assert canvas.report("cup").acted == 7


@pytest.mark.parametrize("way", ["by hand, moved", "break, last"])
def test_a_phrase_that_doubles_its_class_word_is_no_ordinary_prompt_and_still_arrives(way):
    canvas = Canvas(PlacedConcept(frozen(tiny.concept())))
    sample(canvas.model, WAYS[way](canvas.clip), encode(canvas.clip, "blurry"), steps=1)
    assert canvas.report().acted == 7


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_last_layer_may_be_set_before_and_after_compose(order):
    def skipped(clip):
        return nodes.CLIPSetLastLayer().set_last_layer(clip, -2)[0]

    canvas = Canvas(mug())
    clip = skipped(canvas.clip) if order == "after" else weave_clip(skipped(tiny.clip()), (mug(),))
    positive, negative = encode(clip, "a <mug>"), encode(clip, "blurry")
    assert not torch.equal(positive[0][0], encode(canvas.clip, "a <mug>")[0][0])
    drawn = sample(canvas.model, positive, negative)
    assert canvas.report().acted == 7
    twin = weave_clip(skipped(tiny.clip()), (mug(),))
    assert torch.equal(drawn, sample(canvas.model, encode(twin, "a <mug>"), encode(twin, "blurry")))


def clip_lora(clip):
    clone = clip.clone()
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    assert clone.add_patches({key: (0.05 * torch.randn(64, 768, generator=torch.Generator().manual_seed(6)),)}, 1.0)
    return clone


def test_a_lora_on_both_before_and_after_compose_is_the_same():
    canvas = Canvas(mug())
    before = Canvas(mug())
    before.clip = weave_clip(clip_lora(tiny.clip()), (mug(),))
    after = clip_lora(canvas.clip)
    words = [(encode(clip, "a <mug>"), encode(clip, "blurry")) for clip in (before.clip, after)]
    assert torch.equal(words[0][0][0][0], words[1][0][0][0])
    assert not torch.equal(words[0][0][0][0], encode(canvas.clip, "a <mug>")[0][0])
    assert torch.equal(sample(lora(canvas.model), *words[0]), sample(lora(canvas.model), *words[1]))
    assert canvas.report().acted == 7


def test_sdxl_with_two_texts_of_which_one_has_the_word_acts_on_that_encoder_only():
    canvas = Canvas(mug("SDXL"), family="SDXL")
    with torch.inference_mode():
        made = sdxl_nodes.CLIPTextEncodeSDXL.execute(canvas.clip, 128, 128, 0, 0, 128, 128, "a tree", "a <mug>")
    (conditioning,) = made.args
    (slots,) = conditioning[0][1][KEY].slots
    assert slots.rows == {"l": (2,)}
    sample(canvas.model, conditioning, encode(canvas.clip, "blurry"), steps=1)
    assert canvas.report().acted == canvas.report().sites


@pytest.mark.parametrize("part", [tiny.low_rank, *GUESTS])
@pytest.mark.parametrize("texts", [("a <mug>", "a tree"), ("a tree", "a <mug>")], ids=["g", "l"])
def test_sdxl_prompts_of_one_call_may_hold_the_word_in_different_encoders(texts, part):
    concept = tiny.concept(family="SDXL")
    canvas = Canvas(PlacedConcept(part(concept) if part is tiny.low_rank else tiny.guest(part, concept)), family="SDXL")
    plain = Canvas(PlacedConcept(tiny.without_parts(concept)), family="SDXL")

    def negative(canvas, positive):
        with torch.inference_mode():
            made = sdxl_nodes.CLIPTextEncodeSDXL.execute(canvas.clip, 128, 128, 0, 0, 128, 128, *texts).args[0]
        return sample(canvas.model, encode(canvas.clip, positive), made, steps=1, cfg=0.0)

    beside, alone = (negative(canvas, positive) for positive in ("a nice <mug>", "a bush"))
    assert differ(beside, alone) < 1e-3 < 0.01 < differ(alone, negative(plain, "a bush"))  # of values up to 250


def test_sdxl_chunks_that_a_pack_joins_are_found_in_both_encoders():
    canvas = Canvas(mug("SDXL"), family="SDXL")
    sample(canvas.model, joined(canvas.clip, "a tree", "a <mug>"), encode(canvas.clip, "blurry"), steps=1)
    assert canvas.report().acted == canvas.report().sites


@pytest.mark.parametrize("phrase", ["[V] {}", "old [V][V]"])
@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_chunks_that_were_tokenised_one_by_one_keep_each_occurrence_and_its_weight(family, phrase):
    clip = weave_clip(tiny.clip(family), (PlacedConcept(tiny.concept("cup", "cup", family, phrase)),))
    texts = "a (<cup>:0.5) <cup>", "nice <cup>"
    every = (*(encode(clip, text) for text in texts), extended(clip, *texts))
    (first,), (second,), (both,) = (made[0][1][KEY].slots for made in every)
    assert both.weights == (*first.weights, *second.weights) == (0.5, 1.0, 1.0)
    for kind in ("rows", "category"):
        rows, before, behind = (getattr(one, kind) for one in (both, first, second))
        assert rows == {key: (*before[key], *(77 + row for row in behind[key])) for key in before}


# A pack that makes two rows of a token, as CLIP NegPip does: one for keys and one for values


def twofold(clip):
    clone = clip.clone()
    encode_plainly = clone.cond_stage_model.clip_l.encode_token_weights

    def encode_twice(tokens):
        cond, pooled = encode_plainly(tokens)
        return cond.repeat_interleave(2, 1), pooled

    clone.patcher.add_object_patch("clip_l.encode_token_weights", encode_twice)
    return clone


def parted(model):
    clone = model.clone()
    clone.set_model_attn2_patch(lambda n, context, value, extra: (n, context[:, 0::2], value[:, 1::2]))
    return clone


def copied(way):
    """As the sampler's own device has it."""
    return lambda clip, text: [[cond.clone(), extra] for cond, extra in way(clip, text)]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("way", [encode, copied(encode), copied(by_hand)], ids=["here", "there", "by hand"])
@pytest.mark.parametrize("negative", ["blurry", LONG])
def test_words_act_as_ever_where_a_pack_makes_two_rows_of_a_token(negative, way, order):
    left = torch.zeros(64, 64)
    left[:, :32] = 1
    cup = PlacedConcept(tiny.guest(NestedValues, tiny.concept("cup", "cup")))
    canvas = Canvas(mug(), other(region=left), cup)
    text = "a <mug> under a <hat> beside a <cup>"
    usual = sample(canvas.model, encode(canvas.clip, text), encode(canvas.clip, negative))
    clip, placed = tiny.fresh_clip(), (mug(), other(region=left), cup)
    clip = twofold(weave_clip(clip, placed)) if order == "after" else weave_clip(twofold(clip), placed)
    model = parted(canvas.model) if order == "after" else Canvas(*placed, model=parted(tiny.model())).model
    assert differ(sample(model, way(clip, text), encode(clip, negative)), usual) < 1e-4


def test_a_context_that_a_pack_has_shortened_is_left_alone_and_the_report_says_so():
    canvas = Canvas(mug())
    positive, negative = encode(canvas.clip, LONG + "<mug>"), encode(canvas.clip, "blurry")
    drawn = sample(parted(canvas.model), positive, negative, steps=1)
    assert torch.equal(drawn, sample(parted(tiny.model()), positive, negative, steps=1))
    assert canvas.report().cause == "site"


# By content, not by word


def test_a_renamed_concept_belongs_to_the_model_that_knows_it_under_another_word():
    canvas = Canvas(mug())
    clip = weave_clip(tiny.clip(), (mug(placeholder="beaker"),))
    negative = encode(clip, "blurry")
    drawn = sample(canvas.model, encode(clip, "a <beaker>"), negative)
    assert canvas.report().acted == 7
    assert torch.equal(drawn, sample(canvas.model, encode(canvas.clip, "a <mug>"), negative))


def test_a_clip_with_another_concept_of_the_same_name_does_not_act():
    canvas = Canvas(mug())
    two_slots = PlacedConcept(tiny.concept("mug", "mug", phrase="[V][V] {}"))
    clip = weave_clip(tiny.clip(), (two_slots,))
    positive, negative = encode(clip, "<mug> and <mug>"), encode(clip, "blurry")
    assert torch.equal(sample(canvas.model, positive, negative), sample(tiny.model(), positive, negative))
    report = canvas.report()
    assert report.cause == "versions" and report.acted == 0


# What else a prompt says


def test_a_near_miss_is_pointed_out_beside_a_word_that_acts():
    canvas = Canvas(mug(), other())
    sample(canvas.model, encode(canvas.clip, "a <mug> and a <mugg>"), encode(canvas.clip, "<hat >"), steps=1)
    assert canvas.report().cause == "" and "<mugg> is no concept's word" in canvas.report().sentence
    assert canvas.report("hat").cause == "word" and "<hat > does" in canvas.report("hat").sentence


def test_a_word_at_weight_0_is_reported_like_strength_0():
    canvas = Canvas(mug())
    sample(canvas.model, encode(canvas.clip, "a (<mug>:0)"), encode(canvas.clip, "blurry"), steps=1)
    assert canvas.report().cause == "strength" and not canvas.report().warns


def test_sites_that_other_packs_own_altogether_are_reported():
    model = tiny.model().clone()
    for shape in tiny.concept().info.base.sites:
        model.set_model_attn2_replace(lambda q, k, v, extra: q, *shape.site[:2])
    canvas = Canvas(mug(region=torch.ones(8, 8)), model=model)
    sample(canvas.model, encode(canvas.clip, "a <mug>"), encode(canvas.clip, "blurry"), steps=1)
    assert canvas.report().cause == "site"


def test_a_prompt_whose_steps_are_over_is_reported_and_not_another_pack():
    """As in a second pass that denoises a little, under words for the beginning of the first."""
    canvas, ranges = Canvas(mug()), nodes.ConditioningSetTimestepRange()
    early = ranges.set_range(encode(canvas.clip, "a <mug>"), 0.0, 0.2)[0]
    late = ranges.set_range(encode(canvas.clip, "a tree"), 0.2, 1.0)[0]
    for denoise, cause in ((1.0, ""), (0.4, "unused")):
        sample(canvas.model, early + late, encode(canvas.clip, "blurry"), steps=2, denoise=denoise)
        assert canvas.report().cause == cause


@pytest.mark.parametrize(("cfg", "cause"), [(1.0, "guidance"), (2.0, "")])
def test_a_word_in_a_negative_that_cfg_1_leaves_out_is_reported(cfg, cause):
    canvas = Canvas(mug(), other())
    sample(canvas.model, encode(canvas.clip, "a tree"), encode(canvas.clip, "a <mug>"), steps=1, cfg=cfg)
    assert canvas.report().cause == cause and canvas.report("hat").cause == "word"
