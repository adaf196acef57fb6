"""Low-rank layers against LoRA's formula, and in files."""

from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.checkpoint import load, save
from concept_loom.personalization.parts.low_rank import ALPHA, LowRank, Pair, layer_widths, low_rank_change
from concept_loom.personalization.refusal import ConceptFileError

from .concepts import SITES, concept

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def layers(rank=2):
    return {
        shape.site: {name: Pair(draw(rank, i), draw(o, rank)) for name, (i, o) in layer_widths(shape).items()}
        for shape in SITES
    }


def with_layers(changed=lambda own: own):
    return replace(concept(), parts=(LowRank({site: changed(own) for site, own in layers().items()}),))


def test_it_is_the_same_beside_the_weights_as_in_them():
    weight, x, a, b = draw(7, 5), draw(2, 3, 5), draw(4, 5), draw(7, 4)
    in_weights = x @ (weight + ALPHA / 4 * b @ a).T
    torch.testing.assert_close(x @ weight.T + low_rank_change(x, a, b), in_weights)


def test_every_layer_of_a_block_has_its_widths():
    assert layer_widths(SITES[0]) == {
        "attn1.to_q": (8, 8),
        "attn1.to_k": (8, 8),
        "attn1.to_v": (8, 8),
        "attn1.to_out.0": (8, 8),
        "attn2.to_q": (8, 8),
        "attn2.to_k": (6, 8),
        "attn2.to_v": (6, 8),
        "attn2.to_out.0": (8, 8),
        "ff.net.0.proj": (8, 64),
        "ff.net.2": (32, 8),
    }


def test_what_was_saved_is_loaded(tmp_path):
    made = with_layers()
    save(made, tmp_path / "mug.safetensors")
    loaded = load(tmp_path / "mug.safetensors")
    assert loaded.hash == made.hash and loaded.parts[0].sites == made.parts[0].sites
    again = loaded.with_tensors({name: 2 * tensor for name, tensor in loaded.tensors().items()})
    pair, twice = (one.parts[0].layers[SITES[0].site]["attn2.to_k"] for one in (loaded, again))
    assert torch.equal(twice.b, 2 * pair.b)


def unknown(own):
    return {**own, "attn3.to_q": own["attn1.to_q"]}


def narrow(own):
    return {**own, "attn2.to_k": Pair(draw(2, 8), draw(8, 2))}


def unequal(own):
    return {**own, "ff.net.2": Pair(draw(3, 32), draw(8, 2))}


@pytest.mark.parametrize("damage", [unknown, narrow, unequal])
def test_other_layers_widths_and_ranks_are_refused(tmp_path, damage):
    save(with_layers(damage), tmp_path / "mug.safetensors")
    with pytest.raises(ConceptFileError, match=r"mug\.safetensors.*(attn3|attn2\.to_k|ff\.net\.2)"):
        load(tmp_path / "mug.safetensors")


def test_half_a_layer_is_refused():
    tensors = with_layers().parts[0].tensors()
    del tensors["low_rank.middle.0.0.ff.net.2.b"]
    with pytest.raises(ValueError, match=r"'middle\.0\.0\.ff\.net\.2' has a \(2, 32\), where"):
        LowRank.from_tensors(tensors, SITES)
