"""Other nodes and other packs' patches beside our concepts: all act, in any order, or the report says why not."""

from functools import cache

import pytest
import torch
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.guests import ImageTokens, LatentInstruction, NestedValues

from tools import compatibility

from . import neighbours, tiny
from .neighbours import EVERY, PARTS, SITES, Neighbour, compiled, ksampler, sampled
from .other_packs import parting, tiled, write_files
from .test_prompt_to_picture import differ, encode, mug, sample

KINDS = {"hat": ImageTokens, "cup": NestedValues, "bag": LatentInstruction}
TEXT = "a <mug>, <tin>, <hat>, <cup>, <bag> and <shoe>"
PLAIN = TEXT.replace("<", "").replace(">", "")
NOISE = 0.01  # of the picture's deviation; the same graph twice draws the same bits

MOVABLE = [case for case in EVERY if case.model or case.clip]
EACH = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)


def placed(word):
    one = tiny.concept(word, word)
    if word in KINDS:
        return PlacedConcept(tiny.guest(KINDS[word], one))
    if word == "shoe":
        return PlacedConcept(tiny.low_rank(one), sparing=True)
    region = neighbours.left()[0] if word == "tin" else None
    return PlacedConcept(one, region=region)


ALL = tuple(placed(word) for word in PARTS)


@pytest.fixture(autouse=True, scope="module")
def files(tmp_path_factory):
    write_files(tmp_path_factory.mktemp("neighbours"))


@cache
def woven_clip():
    return weave_clip(tiny.clip(), ALL)


@cache
def said(text):
    return encode(woven_clip(), text)


class Drawing:
    """A case's picture; `told` are the reports of every sampling that it took."""

    def __init__(self, case: Neighbour, composition=ALL, text=TEXT, first="node", plain=ksampler) -> None:
        self.told = []
        change, change_clip = case.model or _same, case.clip or _same
        weave = lambda model: weave_model(model, composition, self.told.append)  # noqa: E731
        model = weave(change(tiny.model())) if first == "node" else change(weave(tiny.model()))
        if case.clip:
            clip = weave_clip(change_clip(tiny.clip()), ALL) if first == "node" else change_clip(woven_clip())
            words = encode(clip, text), encode(clip, "blurry")
        else:
            words = said(text), said("blurry")
        if case.prompts:
            words = case.prompts(*words)
        self.picture = (case.draw or plain)(model, *words)


def _same(given):
    return given


@cache
def whole(case):
    return Drawing(case)


@cache
def without_words(case):
    """The node alone: nothing of ours on MODEL or CLIP."""
    model = (case.model or _same)(tiny.model())
    clip = (case.clip or _same)(tiny.clip())
    words = encode(clip, PLAIN), encode(clip, "blurry")
    return (case.draw or ksampler)(model, *(case.prompts(*words) if case.prompts else words))


@cache
def without_node(draw):
    return Drawing(Neighbour("nothing", draw=draw)).picture


@EACH
def test_the_concepts_act_or_the_report_says_why_not(case):
    assert whole(case).told
    for reports in whole(case).told:
        assert {one.word: one.acted for one in reports} == {word: SITES for word in PARTS} | dict(case.acted)
        assert all(case.says in one.sentence for one in reports if one.acted < SITES)
    effects = [differ(*pair) for pair in zip(whole(case).picture, without_words(case), strict=True)]
    assert min(effects) > NOISE


@EACH
def test_the_node_acts_too(case):
    drawn, like = whole(case).picture, without_node(case.like)
    if case.same:
        assert differ(drawn, like) < 1e-4
    else:
        assert drawn.shape != like.shape or differ(drawn, like) > NOISE


@EACH
def test_without_the_words_the_node_draws_the_same_bits(case):
    assert torch.equal(Drawing(case, text=PLAIN).picture, without_words(case))


@pytest.mark.parametrize("case", MOVABLE, ids=lambda case: case.name)
def test_the_order_of_nodes_does_not_matter(case):
    after = Drawing(case, first="Compose")
    assert torch.equal(after.picture, whole(case).picture)
    assert [[one.sentence for one in reports] for reports in after.told] == [
        [one.sentence for one in reports] for reports in whole(case).told
    ]


@pytest.mark.parametrize("case", [case for case in EVERY if case.model], ids=lambda case: case.name)
def test_every_part_changes_the_picture_beside_it(case):
    """The same prompts with one concept less on the MODEL: its embedding is in them either way."""
    once = sampled(steps=1)
    drawn = Drawing(case, plain=once).picture
    for word in PARTS:
        fewer = tuple(one for one in ALL if one.word != word)
        effect = differ(Drawing(case, fewer, plain=once).picture, drawn)
        assert effect > NOISE if case.acted.get(word, SITES) else effect == 0, word


def test_the_table_in_the_docs_is_that_of_these_cases():
    assert compatibility.FILE.read_text(encoding="utf-8") == compatibility.page()


def test_a_patch_that_parts_keys_and_values_gets_the_concept_in_both():
    clip = weave_clip(tiny.clip(), (mug(),))
    seen = []
    model = parting(weave_model(tiny.model(), (mug(),)))

    def replacement(q, k, v, extra):
        seen.append((k, v))
        return q

    model.set_model_attn2_replace(replacement, "input", 1)
    sample(model, encode(clip, "a <mug>"), encode(clip, "blurry"), steps=1, cfg=1.0)
    row = next(iter(tiny.concept().parts[0].rows.values()))[0]
    attention = tiny.model().model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2")
    keys, values = seen[0]
    assert torch.allclose(keys[0, 2], attention.get_submodule("to_k")(row), atol=1e-4)
    assert torch.allclose(values[0, 2], attention.get_submodule("to_v")(row), atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("text", ["blurry", "a <hat>"])
def test_tiles_side_by_side_in_a_batch_keep_their_words(text, batch):
    """They draw what they draw one by one, also where the words of the negative are others than the positive's."""
    model = weave_model(tiny.model(), ALL)
    positive, negative = said("a <mug>, a <cup> and a <shoe>"), said(text)
    together, apart = (sample(tiled(model, at_once), positive, negative, batch=batch) for at_once in (2, 1))
    assert differ(together, apart) < 1e-3


def test_a_batch_that_is_no_multiple_of_the_samplers_is_reported_and_not_acted_on():
    model, told = tiny.model().clone(), []

    def wrapper(apply, given):
        more = {name: torch.cat([one, one[:1]]) for name, one in given["c"].items() if isinstance(one, torch.Tensor)}
        x, t = (torch.cat([one, one[:1]]) for one in (given["input"], given["timestep"]))
        return apply(x, t, **{**given["c"], **more})[:-1]

    model.set_model_unet_function_wrapper(wrapper)
    concepts = (placed("mug"), placed("shoe"))
    words = said("a <mug> and a <shoe>"), said("blurry")
    drawn = sample(weave_model(model, concepts, told.append), *words, steps=1)
    assert torch.equal(drawn, sample(model, *words, steps=1))
    assert [(one.acted, one.cause) for one in told[0]] == [(0, "batch"), (0, "batch")]


@pytest.mark.parametrize("region", [None, torch.ones(8, 8)])
def test_torch_compile_draws_the_same_picture_with_another_strength_each_time(region):
    for strength in (1.0, 0.4):
        one = mug(strength=strength, region=region)
        clip = weave_clip(tiny.clip(), (one,))
        words = encode(clip, "a <mug>"), encode(clip, "blurry")
        plain = sample(weave_model(tiny.model(), (one,)), *words)
        assert differ(sample(compiled(weave_model(tiny.model(), (one,))), *words), plain) < 1e-4
        assert differ(sample(weave_model(compiled(tiny.model()), (one,)), *words), plain) < 1e-4


def test_a_master_stays_fp32_on_a_narrow_model():
    with torch.inference_mode():
        model = tiny.fresh_model(dtype=torch.float16, manual=torch.float32)
    before = tiny.concept().hash
    clip = weave_clip(tiny.clip(), (mug(),))
    sample(weave_model(model, (mug(),)), encode(clip, "a <mug>"), encode(clip, "blurry"))
    assert tiny.concept().hash == before
    assert all(tensor.dtype == torch.float32 for tensor in tiny.concept().tensors().values())
