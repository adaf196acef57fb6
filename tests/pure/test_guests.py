"""Tokens that concepts bring along, against the papers' equations written out for one sample and one head at a time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization import site_attention
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.guests import (
    Instructed,
    Nested,
    Presence,
    bring,
    joint,
    with_instruction,
    with_nested,
)
from concept_loom.personalization.parts import ImageTokens, LatentInstruction, NestedValues
from concept_loom.personalization.regions import WHOLE
from concept_loom.personalization.site_attention import Expected, SiteAttention

from . import concepts

HEADS, WIDTH, POSITIONS, TOKENS = 2, 8, 6, 5
GRID = (2, 3)


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def attention(q, k, v, bias: torch.Tensor | float = 0.0):
    """One sample, one head."""
    return (q @ k.T * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v


def present(u, region=None):
    placed = PlacedConcept(concepts.concept(), region=region)
    here = tuple((sample, WHOLE) for sample, one in enumerate(u) if one is not None)
    return Presence(placed, torch.tensor([one or 0.0 for one in u]), here)


@pytest.mark.parametrize("u", [0.3, 1.0, 1.7])
def test_nested_values_follow_the_paper(u):
    """eq. 3, 4 of arXiv 2501.01407: V_q[s*] = v*(q), all else untouched; only sample 1 holds the word, at row 2."""
    q, k, v = draw(2, POSITIONS, WIDTH), draw(2, TOKENS + 3, WIDTH), 2 * draw(2, TOKENS + 3, WIDTH) + 1
    plain = torch.stack([_packed(attention, q[b], k[b, :TOKENS], v[b, :TOKENS]) for b in range(2)])
    nested = Nested(torch.tensor([1]), torch.tensor([2]), torch.tensor([[u]]), slice(TOKENS, TOKENS + 3))
    got = with_nested(plain, q, k, v, HEADS, nested, None)
    assert torch.equal(got[0], plain[0])
    assert torch.allclose(got[1], _packed(_literally(u), q[1], k[1], v[1]), atol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_nested_values_take_the_length_of_the_words_own_value(factor):
    """v* <- factor |V[s]| v* / |v*|, over the whole width and not head by head (a known slip of reimplementations)."""
    q, k, v = draw(2, POSITIONS, WIDTH), draw(2, TOKENS + 3, WIDTH), 2 * draw(2, TOKENS + 3, WIDTH) + 1
    nested = Nested(torch.tensor([1]), torch.tensor([2]), torch.ones(1, 1), slice(TOKENS, TOKENS + 3), factor)
    got = with_nested(torch.zeros(2, POSITIONS, WIDTH), q, k, v, HEADS, nested, None)[1]
    half, value = WIDTH // HEADS, v[1, 2]
    for position in range(POSITIONS):
        heads = [slice(start, start + half) for start in range(0, WIDTH, half)]
        inner = torch.cat([attention(q[1, [position], h], k[1, TOKENS:, h], v[1, TOKENS:, h])[0] for h in heads])
        inner = factor * value.norm() * inner / inner.norm()
        shares = [(q[1, position, h] @ k[1, :TOKENS, h].T * half**-0.5).softmax(-1)[2] for h in heads]
        change = torch.cat([share * (inner - value)[h] for share, h in zip(shares, heads, strict=True)])
        assert torch.allclose(got[position], change, atol=1e-5)


def _literally(u):
    def one_head(q, k, v):
        inner = attention(q, k[TOKENS:], v[TOKENS:])  # v*(q), (n, d)
        out = []
        for position in range(len(q)):
            values = v[:TOKENS].clone()
            values[2] += u * (inner[position] - values[2])
            out.append(attention(q[position][None], k[:TOKENS], values)[0])
        return torch.stack(out)

    return one_head


def _packed(head: Callable[..., torch.Tensor], q, k, v):
    parts = zip(*(x.split(WIDTH // HEADS, -1) for x in (q, k, v)), strict=True)
    return torch.cat([head(*part) for part in parts], -1)


@pytest.mark.parametrize("u", [0.3, 1.0, 1.7])
def test_a_latent_instruction_is_added_to_what_the_text_says(u):
    """out = A V + u softmax(q K_x^T / sqrt d) V_x, in sample 1 only."""
    q, k, v = draw(2, POSITIONS, WIDTH), draw(2, TOKENS + 3, WIDTH), 2 * draw(2, TOKENS + 3, WIDTH) + 1
    plain = torch.stack([_packed(attention, q[b], k[b, :TOKENS], v[b, :TOKENS]) for b in range(2)])
    own = Instructed(torch.tensor([1]), torch.tensor([[u]]), slice(TOKENS, TOKENS + 3))
    got = with_instruction(plain, q, k, v, HEADS, own)
    assert torch.equal(got[0], plain[0])
    added = _packed(attention, q[1], k[1, TOKENS:], v[1, TOKENS:])
    assert torch.allclose(got[1], plain[1] + u * added, atol=1e-5)


def test_a_latent_instruction_at_strength_0_changes_no_bit_and_keeps_to_its_region():
    q, k, v = draw(1, POSITIONS, WIDTH), draw(1, TOKENS + 3, WIDTH), draw(1, TOKENS + 3, WIDTH)
    plain, columns = draw(1, POSITIONS, WIDTH), slice(TOKENS, TOKENS + 3)
    nothing = Instructed(torch.tensor([0]), torch.zeros(1, 1), columns)
    assert torch.equal(with_instruction(plain, q, k, v, HEADS, nothing), plain)
    half = Instructed(torch.tensor([0]), torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]), columns)
    changed = (with_instruction(plain, q, k, v, HEADS, half) != plain).any(-1)[0]
    assert changed.tolist() == [True, False, False] * 2


def test_all_sites_share_the_tokens_of_a_latent_instruction():
    part = LatentInstruction.at(concepts.SITES, draw(3, 4))
    assert list(part.tensors().values())[0] is part.tokens and len(part.tensors()) == 1
    other = part.with_tensors({LatentInstruction.name: draw(3, 5)})
    assert other.sites == part.sites and all(rows is other.tokens for rows in other.rows.values())


@pytest.mark.parametrize("u", [0.25, 1.0])
def test_image_tokens_weigh_as_much_as_they_are_present(u):
    """log u on a logit is u times the weight: softmax over [K; K_p] with the added weights times u."""
    concept = replace(concepts.concept(), parts=(ImageTokens({concepts.SITES[0]: draw(2, WIDTH)}),))
    guests = bring(ImageTokens, concepts.SITES[0], [replace(present([None, u]), placed=PlacedConcept(concept))])
    seat = joint(guests, TOKENS, GRID, draw(1))
    assert seat.touched.tolist() == [1] and seat.rest.tolist() == [0] and seat.tokens == TOKENS
    q, k, v = draw(POSITIONS, WIDTH), draw(TOKENS + 2, WIDTH), draw(TOKENS + 2, WIDTH)
    weights = (q @ k.T * WIDTH**-0.5).exp() * torch.tensor([1.0] * TOKENS + [u] * 2)
    bias = torch.nn.functional.pad(seat.bias[0, 0], (TOKENS, 0))
    assert torch.allclose(attention(q, k, v, bias), weights / weights.sum(-1, keepdim=True) @ v, atol=1e-5)


def test_image_tokens_that_are_wholly_there_need_no_mask():
    concept = replace(concepts.concept(), parts=(ImageTokens({concepts.SITES[0]: draw(2, WIDTH)}),))
    one, two, less, elsewhere = (
        replace(present(u), placed=PlacedConcept(concept), wholly=wholly)
        for u, wholly in (([None, 1.0], True), ([None, 1.0], True), ([None, 0.5], False), ([1.0, None], True))
    )

    def seat(*present):
        return joint(bring(ImageTokens, concepts.SITES[0], present), TOKENS, GRID, draw(1))

    assert seat(one).bias is None and seat(one, two).bias is None
    assert seat(one, two).touched.tolist() == [1] and seat(one, two).rest.tolist() == [0]
    assert seat(one, less).bias is not None  # which of the two comes first does not matter
    assert seat(less, one).bias is not None
    assert seat(one, elsewhere).bias is not None  # each of them only in samples of its own


def test_a_region_hides_image_tokens_from_the_rest_of_the_picture():
    left = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    concept = replace(concepts.concept(), parts=(ImageTokens({concepts.SITES[0]: draw(1, WIDTH)}),))
    one = replace(present([1.0], left), placed=PlacedConcept(concept, region=left))
    bias = joint(bring(ImageTokens, concepts.SITES[0], [one]), TOKENS, GRID, draw(1)).bias[0, 0, :, -1]
    assert (bias > -1).tolist() == [True, False, False] * 2 and (bias[bias < -1] < -1e4).all()


@pytest.mark.parametrize("region", [torch.tensor([[1.0, 0.0, 0.4], [1.0, 0.0, 0.0]]), None])
def test_a_mask_that_is_made_for_some_positions_after_the_other_is_the_whole_one(region, monkeypatch):
    """At a picture's own tokens the whole one is (n, n + 2): gigabytes for a large picture."""
    concept = replace(concepts.concept(), parts=(ImageTokens({concepts.SITES[0]: draw(2, WIDTH)}),))
    guests = bring(
        ImageTokens, concepts.SITES[0], [replace(present([None, 0.6]), placed=PlacedConcept(concept, region=region))]
    )
    seat = joint(guests, POSITIONS, GRID, draw(1))
    q, k, v = draw(2, POSITIONS, WIDTH), draw(2, POSITIONS + 2, WIDTH), draw(2, POSITIONS + 2, WIDTH)
    masks = []

    def host(q, k, v, heads, mask=None):
        masks.append(None if mask is None else mask.shape[2:])
        bias = torch.zeros(len(q), 1, 1, 1) if mask is None else mask
        return torch.stack(
            [_packed(lambda q, k, v, b=b: attention(q, k, v, bias[b, 0]), q[b], k[b], v[b]) for b in range(len(q))]
        )

    def drawn():
        finish = SiteAttention(None)
        finish.expected = Expected(POSITIONS + 2, joint=seat)
        return finish(host, q, k, v, HEADS)

    whole = drawn()
    monkeypatch.setattr(site_attention, "MASK", 4 * (POSITIONS + 2))
    assert torch.allclose(drawn(), whole, atol=1e-6)
    assert masks == [None, (6, 8), None, (4, 8), (2, 8)]
    u = torch.full((POSITIONS,), 0.6) if region is None else 0.6 * region.flatten()
    bias = torch.cat([torch.zeros(POSITIONS, POSITIONS), u.log().clamp(min=-3e4)[:, None].expand(-1, 2)], 1)
    assert torch.allclose(whole[1], _packed(lambda q, k, v: attention(q, k, v, bias), q[1], k[1], v[1]), atol=1e-5)


def test_only_parts_of_that_kind_at_that_site_are_brought():
    concept = replace(concepts.concept(), parts=(NestedValues({concepts.SITES[0]: draw(2, 4)}),))
    one = replace(present([1.0]), placed=PlacedConcept(concept))
    assert bring(ImageTokens, concepts.SITES[0], [one]) == []
    assert len(bring(NestedValues, concepts.SITES[0], [one])) == 1
    assert bring(NestedValues, concepts.SITES[1], [one]) == []
