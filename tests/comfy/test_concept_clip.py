"""What the text encoder sees of a composition."""

from dataclasses import replace

import comfy.hooks
import pytest
import torch
from concept_loom.personalization.comfyui.concept_clip import KEY, ConceptCLIP, weave_clip
from concept_loom.personalization.comfyui.tokens import SlotToken, marks_in
from concept_loom.personalization.composition import PlacedConcept

from . import tiny


def mug(**how):
    return PlacedConcept(tiny.concept(), **how)


def hat():
    return PlacedConcept(tiny.concept("hat", "hat"))


@torch.inference_mode()
def context(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0]


def cond(clip, text):
    return context(clip, text)[0]


def slots(clip, text):
    return {one.word: one.rows for one in context(clip, text)[1][KEY].slots}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("<mug>", (1,)),
        ("a <MUG>, red", (2,)),
        ("a<mug>'s", (2,)),
        ("one\n<mug>\ntwo", (2,)),
        ("<mug><mug>", (1, 3)),
        ("a (very (nice <mug>:1.3)) day", (4,)),
        ("x,<mug>,y", (3,)),
        ("(<mug>:1.2) <mug> mug", (1, 3)),
    ],
)
def test_slots_stand_where_the_tokenizer_put_them(text, rows):
    assert slots(weave_clip(tiny.clip(), (mug(),)), text)["mug"] == {"l": rows}


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
def test_the_class_words_embedding_makes_the_slot_the_class_word(family):
    """With the phrase `[V]` and no embedding of its own a slot is one token of the class word, bit for bit."""
    placed = PlacedConcept(tiny.concept("cup", "cup", family, "[V]", trained=False))
    woven = weave_clip(tiny.clip(family), (placed,))
    assert torch.equal(cond(woven, "a <cup> here"), cond(tiny.clip(family), "a cup here"))


def test_strength_moves_the_slot_from_the_class_word_to_what_was_learned():
    def slot(strength):
        tokens = weave_clip(tiny.clip(), (mug(strength=strength),)).tokenize("<mug>")
        return next(token for token, *_ in tokens["l"][0] if isinstance(token, SlotToken))

    learned = tiny.concept().embeddings["l"][0]
    half, whole = slot(0.5), slot(1.0)
    assert torch.allclose(whole["data"], learned)
    assert torch.allclose(half["data"], (half.plain + learned) / 2)


def test_a_weight_on_other_words_stays_theirs_and_one_on_the_phrase_becomes_strength():
    woven = weave_clip(tiny.clip(), (mug(),))
    entries = woven.tokenize("(red <mug>:1.2)")["l"][0]
    assert [weight for _, weight in entries[:4]] == [1.0, 1.2, 1.0, 1.0]
    assert [mark.weight for _, mark in marks_in({"l": [entries]})["l"]] == [1.2, 1.2]


def test_one_concept_is_encoded_once(monkeypatch):
    calls = []
    model = tiny.clip().cond_stage_model
    encode = model.encode_token_weights
    monkeypatch.setattr(model, "encode_token_weights", lambda tokens: calls.append(1) or encode(tokens))
    both = weave_clip(tiny.clip(), (mug(), hat()))
    cond(both, "<mug>")
    assert len(calls) == 1
    cond(both, "<mug> and <hat>")
    assert len(calls) == 4


def test_concepts_do_not_see_each_other_and_all_else_sees_both():
    """The identity mask: `<hat>` behind `<mug>` reads the class word where the mug's embedding stands."""
    both = weave_clip(tiny.clip(), (mug(), hat()))
    only_hat = weave_clip(tiny.clip(), (PlacedConcept(tiny.concept(trained=False)), hat()))
    text = "<mug> and <hat> outside"
    made, alone = cond(both, text), cond(only_hat, text)
    own, after = [4, 5], 6  # "[V] hat" and "outside"
    assert torch.equal(made[:, own], alone[:, own])
    assert not torch.allclose(made[:, after], alone[:, after])
    assert not torch.allclose(made[:, own], cond(weave_clip(tiny.clip(), (hat(),)), "mug and <hat> outside")[:, own])


def test_a_clone_keeps_its_words_and_a_layer_can_be_set_on_it():
    clone = weave_clip(tiny.clip(), (mug(),)).clone()
    clone.clip_layer(-2)
    assert isinstance(clone, ConceptCLIP)
    assert slots(clone, "a <mug>") == {"mug": {"l": (2,)}}


def test_the_clip_that_was_given_is_left_alone():
    before = cond(tiny.clip(), "a <mug>")
    weave_clip(tiny.clip(), (mug(),))
    assert torch.equal(cond(tiny.clip(), "a <mug>"), before)
    assert KEY not in context(tiny.clip(), "a <mug>")[1]


def test_weaving_again_adds_words_and_replaces_the_same():
    once = weave_clip(tiny.clip(), (mug(),))
    twice = weave_clip(once, (hat(), mug(strength=0.0)))
    assert slots(twice, "<mug> and <hat>") == {"hat": {"l": (3,)}}
    assert slots(once, "<mug> and <hat>")["mug"] == {"l": (1,)}


def test_two_slots_have_two_rows():
    placed = PlacedConcept(tiny.concept("cup", "cup", phrase="[V][V] {}"))
    assert slots(weave_clip(tiny.clip(), (placed,)), "a <cup>") == {"cup": {"l": (2, 3)}}


def test_embedding_files_of_the_host_still_load(tmp_path):
    from safetensors.torch import save_file

    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "old.safetensors")
    clip = tiny.clip().clone()
    inner = type(clip.tokenizer)(embedding_directory=[str(tmp_path)])
    clip.tokenizer = inner
    woven = weave_clip(clip, (mug(),))
    assert slots(woven, "embedding:old <mug>, embedding:old") == {"mug": {"l": (3,)}}


def test_a_scheduled_encoding_is_spliced_and_marked_as_well():
    clip = weave_clip(tiny.clip(), (mug(), hat()))
    text = "<mug> and <hat>"
    plain = cond(clip, text)
    scheduled = clip.clone()
    scheduled.use_clip_schedule = True
    scheduled.patcher.forced_hooks = comfy.hooks.create_hook_lora({}, 1.0, 1.0)
    with torch.inference_mode():
        (made, extra), *_ = scheduled.encode_from_tokens_scheduled(scheduled.tokenize(text))
    assert torch.equal(made, plain) and {one.word for one in extra[KEY].slots} == {"mug", "hat"}


def test_a_renamed_word_answers_to_its_new_name_only():
    woven = weave_clip(tiny.clip(), (replace(mug(), placeholder="Beaker"),))
    assert slots(woven, "a <beaker>") == {"beaker": {"l": (2,)}}
    assert slots(woven, "a <mug>") == {}
