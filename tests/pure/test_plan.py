from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.denoiser import Slots
from concept_loom.personalization.parts import ContextRows
from concept_loom.personalization.plan import Call, Chunk, Window, planned
from concept_loom.personalization.reading import edited, focused
from concept_loom.personalization.regions import WHOLE, Seen, twins_of
from concept_loom.personalization.rows import RowCache

from .concepts import SITES, concept, placed

SITE = SITES[0].site
SPANS = {"l": slice(0, 6)}


def slots(rows=(1,), weights=(1.0,), word="mug", encoder="l"):
    return Slots(word, "", {encoder: rows}, weights)


def context(samples=1, tokens=4, width=6):
    return torch.randn(samples, tokens, width, generator=torch.Generator().manual_seed(1))


def plan_of(one, chunks, tokens=4, samples=1, spans=SPANS, sigma=None, windows=None):
    sigma = torch.ones(samples) if sigma is None else sigma
    return planned((one,), Call(chunks, tokens, sigma), spans, windows or {})


def read(one, chunks, tokens=4, samples=1, **how):
    plan = plan_of(one, chunks, tokens, samples, **how)
    return edited(context(samples, tokens), SITE, plan.everywhere, RowCache())


def row(one=None):
    return (one or concept()).parts[0].rows[SITE][0]


def test_the_words_rows_hold_the_concept_and_no_others_change():
    out = read(placed(), (Chunk(0, 1, (slots(),), 4),))
    assert torch.equal(out[0, 1], row())
    assert torch.equal(out[0, [0, 2, 3]], context()[0, [0, 2, 3]])


def test_strength_times_weight_draws_the_rows_in():
    out = read(placed(strength=0.5), (Chunk(0, 1, (slots(weights=(0.5,)),), 4),))
    assert torch.allclose(out[0, 1], torch.lerp(context()[0, 1], row(), 0.25))


@pytest.mark.parametrize(
    ("strength", "weights", "windows", "wholly"),
    [
        (1.0, (1.0,), {}, True),
        (0.9, (1.0,), {}, False),
        (1.0, (1.1,), {}, False),
        (1.0, (1.0, 0.5), {}, False),
        (1.0, (1.0,), {"mug": Window(14.0, 0.5)}, False),
    ],
)
def test_the_host_knows_without_asking_the_device_where_a_concept_is_wholly_there(strength, weights, windows, wholly):
    own = slots(rows=(1, 2)[: len(weights)], weights=weights)
    plan = plan_of(placed(strength=strength), (Chunk(0, 1, (own,), 4),), windows=windows)
    assert [one.wholly for one in plan.everywhere] == [wholly]


def test_a_focus_multiplies_the_words_logits_and_no_others():
    plan = plan_of(placed(focus=1.5), (Chunk(0, 1, (slots(),), 4),))
    q, to_k = torch.randn(2, 3, generator=torch.Generator().manual_seed(2)), torch.randn(6, 3)
    logits = q @ (context()[0] @ to_k).T
    got = q @ (focused(context(), plan.everywhere)[0] @ to_k).T
    assert torch.allclose(got, logits * torch.tensor([1.0, 1.5, 1.0, 1.0]), atol=1e-5)


@pytest.mark.parametrize("how", [{"focus": 1.0}, {"focus": 1.5, "strength": 0.0}])
def test_without_a_focus_or_strength_every_bit_stays(how):
    plan = plan_of(placed(**how), (Chunk(0, 1, (slots(),), 4),))
    assert torch.equal(focused(context(), plan.everywhere), context())


def test_every_repeated_copy_of_a_context_is_edited():
    out = read(placed(), (Chunk(0, 1, (slots(),), 2),), tokens=6)
    assert all(torch.equal(out[0, at], row()) for at in (1, 3, 5))


def test_only_the_samples_of_the_conditioning_with_the_word_are_edited():
    out = read(placed(), (Chunk(0, 2, (), 4), Chunk(2, 2, (slots(),), 4)), samples=4)
    assert torch.equal(out[:2], context(4)[:2]) and torch.equal(out[2:, 1], row().expand(2, -1))


def test_no_word_is_no_plan_and_the_context_itself():
    plan = plan_of(placed(), (Chunk(0, 1, (slots(word="hat"),), 4),))
    given = context()
    assert plan.everywhere == () and edited(given, SITE, plan.everywhere, RowCache()) is given


def test_encoders_edit_their_own_channels_at_their_own_rows():
    both = {"l": slice(0, 2), "g": slice(2, 6)}
    apart = (Chunk(0, 1, (slots((1,)), slots((3,), encoder="g")), 4),)
    out = read(placed(), apart, spans=both)
    assert torch.equal(out[0, 1], torch.cat((row()[:2], context()[0, 1, 2:])))
    assert torch.equal(out[0, 3], torch.cat((context()[0, 3, :2], row()[2:])))


def test_encoders_with_equal_rows_are_edited_in_one_go():
    both = {"l": slice(0, 2), "g": slice(2, 6)}
    together = (Chunk(0, 1, (Slots("mug", "", {"l": (1,), "g": (1,)}, (1.0,)),), 4),)
    assert len(plan_of(placed(), together, spans=both).everywhere) == 1


@pytest.mark.parametrize(("sigma", "acts"), [(9.0, False), (5.0, True), (3.0, True), (1.0, True), (0.9, False)])
def test_a_window_holds_between_its_sigmas(sigma, acts):
    window = {"mug": Window(5.0, 1.0)}
    out = read(placed(), (Chunk(0, 1, (slots(),), 4),), sigma=torch.tensor([sigma]), windows=window)
    assert torch.equal(out[0, 1], row() if acts else context()[0, 1])


def test_a_batch_axis_gives_every_sample_its_own_concept():
    rows = {site.site: torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(3)) for site in SITES}
    one = placed()
    tensors = {**one.concept.tensors(), **ContextRows(rows).tensors()}
    batched = replace(one, concept=one.concept.with_tensors(tensors))
    out = read(batched, (Chunk(0, 2, (slots(),), 4),), samples=2)
    assert torch.equal(out[:, 1], rows[SITE][:, 0])


def test_gradients_reach_the_masters_and_nothing_is_kept_of_them():
    cache = RowCache()
    master = torch.ones(1, 6, requires_grad=True)
    kept = torch.ones(1, 6)
    like = torch.zeros(1, dtype=torch.float16)
    assert cache.like(master, like) is not cache.like(master, like)
    assert cache.like(kept, like) is cache.like(kept, like)
    cache.like(master, like).sum().backward()
    assert master.grad is not None and kept.dtype == torch.float32


def test_twins_share_their_rows_weight_by_the_mask():
    """Equal logits: the pair of row and twin weighs as the one row did, split by the mask."""
    region = torch.tensor([[1.0, 0.25], [0.0, 0.5]])
    twins = twins_of([Seen(0, 1, 0)], 2, [(region, WHOLE)], torch.device("cpu"))
    bias = twins.bias((2, 2), 3, torch.zeros(1))[0, 0]
    weights = torch.softmax(bias, -1) * 3
    assert torch.allclose(weights[:, 3], region.flatten(), atol=1e-6)
    assert torch.allclose(weights[:, 1], 1 - region.flatten(), atol=1e-6)
    assert twins.touched.tolist() == [0] and twins.rest.tolist() == [1]


def test_a_box_cuts_its_part_out_of_the_region():
    region = torch.zeros(4, 4)
    region[:, 2:] = 1
    right = twins_of([Seen(0, 1, 0)], 1, [(region, (0.0, 0.5, 1.0, 1.0))], torch.device("cpu"))
    assert (right._masks((2, 1))[0] == 1).all()
