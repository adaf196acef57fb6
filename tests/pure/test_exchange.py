"""Files of others as concepts, and concepts as files for others."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.checkpoint import load, save
from concept_loom.personalization.concept import Concept, ConceptInfo
from concept_loom.personalization.exchange.exported import DIFFUSERS, EMBEDDING, FORMATS, KOHYA, exported
from concept_loom.personalization.exchange.families import known_bases
from concept_loom.personalization.exchange.imported import Told, imported
from concept_loom.personalization.exchange.names import diffusers_name, original_name, period_of
from concept_loom.personalization.parts import ContextRows, LatentInstruction, LowRank
from concept_loom.personalization.parts.low_rank import ALPHA, Pair, layer_widths
from concept_loom.personalization.refusal import ConceptFileError
from concept_loom.personalization.sites import Site
from safetensors.torch import load_file, save_file

BASES = {base.family: base for base in known_bases()}
TOLD = Told("mug", "mug", "subject")
RANK = 2


def info(family="SD 1.5", phrase="[V] mug"):
    return ConceptInfo("mug", "mug", phrase, "mug", "subject", BASES[family], "staged")


def embedded(family="SD 1.5", phrase="[V] mug"):
    one = info(family, phrase)
    return Concept(one, {key: torch.randn(one.slots, width) for key, width in one.base.encoders.items()})


def layered(family="SD 1.5", sites=None):
    shapes = [shape for shape in BASES[family].sites if sites is None or shape.site in sites]

    def pair(into, out):
        return Pair(torch.randn(RANK, into), torch.randn(out, RANK))

    layers = {s.site: {name: pair(*widths) for name, widths in layer_widths(s).items()} for s in shapes}
    return Concept(info(family), {}, (LowRank(layers),))


def first_sites(family):
    return [shape.site for shape in BASES[family].sites[:2]] + [BASES[family].sites[-1].site]


def changes(part):
    """(site, layer) -> (alpha / r) b a, whatever the file made of alpha."""
    return {
        (site, layer): ALPHA / len(pair.a) * pair.b @ pair.a
        for site, pairs in part.layers.items()
        for layer, pair in pairs.items()
    }


@pytest.mark.parametrize(
    ("family", "tensors", "slots"),
    [
        ("SD 1.5", {"emb_params": torch.randn(3, 768)}, 3),
        ("SD 1.5", {"<cat-toy>": torch.randn(768)}, 1),
        ("SD 2", {"emb_params": torch.randn(1, 1024)}, 1),
        ("SDXL", {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, 2),
        ("SDXL", {"<toy>": torch.randn(2, 1280)}, 2),
        ("Playground", {"emb_params": torch.randn(1, 128)}, 1),
    ],
)
def test_embeddings_of_every_layout_become_a_word(tmp_path, family, tensors, slots):
    save_file(tensors, tmp_path / "toy.safetensors")
    concept, sentence = imported(tmp_path / "toy.safetensors", TOLD)
    assert concept.info.base.family == family and concept.info.slots == slots and family in sentence
    found = sorted(one.reshape(-1).tolist() for one in concept.embeddings.values())
    assert found == sorted(one.reshape(-1).tolist() for one in tensors.values())
    save(concept, tmp_path / "own.safetensors")
    assert load(tmp_path / "own.safetensors").hash == concept.hash


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_pickled_files_are_read_as_plain_tensors(tmp_path, suffix):
    vector = torch.randn(2, 768)
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": vector}, "name": "toy"}, tmp_path / f"a{suffix}"
    )
    torch.save({"<toy>": torch.nn.Parameter(vector)}, tmp_path / f"b{suffix}")
    for name in "ab":
        assert torch.equal(imported(tmp_path / f"{name}{suffix}", TOLD).concept.embeddings["l"], vector)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))])
def test_a_pickled_file_that_would_run_code_is_refused_and_runs_none(tmp_path, write):
    write({"<toy>": torch.zeros(768), "trap": Trap(tmp_path / "sprung")}, tmp_path / "toy.pt")
    with pytest.raises(ConceptFileError, match="could run code"):
        imported(tmp_path / "toy.pt", TOLD)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"emb_params": torch.zeros(1, 555)}, "other widths"),
        ({"emb_params": torch.zeros(65, 768)}, "1 to 64 belong"),
        ({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(2, 1280)}, "as many for each"),
        ({"emb_params": torch.full((1, 768), torch.nan)}, "not finite"),
        ({"a": torch.zeros(1, 768), "b": torch.zeros(1, 768)}, "other widths"),
        ({"x.hada_w1_a": torch.zeros(2, 2)}, "as a LoHa does"),
        ({"unet.a.lora_A.weight": torch.zeros(2, 9), "unet.a.lora_B.weight": torch.zeros(9, 2)}, "no layer that fits"),
        ({"unet.a.lora_B.weight": torch.zeros(9, 2)}, "no pair of matrices"),
    ],
)
def test_what_cannot_be_a_concept_is_refused_with_the_reason(tmp_path, tensors, why):
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ConceptFileError, match=why):
        imported(tmp_path / "odd.safetensors", TOLD)


def test_a_pickled_tensor_of_a_shape_that_no_file_holds_is_refused(tmp_path):
    torch.save({"<toy>": torch.zeros(1).expand(1 << 34, 768)}, tmp_path / "toy.pt")
    with pytest.raises(ConceptFileError, match="cannot be imported"):
        imported(tmp_path / "toy.pt", TOLD)


def test_a_subject_needs_a_class_word_and_a_style_does_not(tmp_path):
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "toy.safetensors")
    with pytest.raises(ValueError, match="No class word"):
        imported(tmp_path / "toy.safetensors", Told("mug", " ", "subject"))
    assert imported(tmp_path / "toy.safetensors", Told("ink", "", "style")).concept.info.class_word == "style"


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL", "Playground"])
@pytest.mark.parametrize("to", [KOHYA, DIFFUSERS])
def test_a_lora_that_was_exported_is_imported_with_the_same_change(tmp_path, family, to):
    concept = layered(family, first_sites(family))
    exported(concept, to, "mug").save(tmp_path / "mug.safetensors")
    back, sentence = imported(tmp_path / "mug.safetensors", replace(TOLD, trigger="ohwx"))
    assert back.info.base.family == family and back.info.phrase == "ohwx [V]"
    assert "Left out" not in sentence
    ours, theirs = changes(concept.parts[0]), changes(back.parts[0])
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(theirs[key], ours[key])
    save(back, tmp_path / "own.safetensors")
    assert load(tmp_path / "own.safetensors").hash == back.hash


def peft(block, layer):
    return f"unet.{block}.{layer}.lora_A.weight", f"unet.{block}.{layer}.lora_B.weight"


def original(block, layer):
    return f"diffusion_model.{block}.{layer}.lora_down.weight", f"diffusion_model.{block}.{layer}.lora_up.weight"


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0", peft),
        ("input_blocks.4.1.transformer_blocks.0", original),
    ],
)
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_other_names_and_any_alpha_are_read(tmp_path, block, names, alpha):
    down, up = torch.randn(4, 768), torch.randn(640, 4)
    file = dict(zip(names(block, "attn2.to_k"), (down, up), strict=True))
    if alpha is not None:
        file[f"{names(block, 'attn2.to_k')[0].rpartition('.lora')[0]}.alpha"] = torch.tensor(alpha)
    save_file(file, tmp_path / "some.safetensors")
    (part,) = imported(tmp_path / "some.safetensors", TOLD).concept.parts
    found = changes(part)[Site("input", 4, 0), "attn2.to_k"]
    torch.testing.assert_close(found, (1.0 if alpha is None else alpha / 4) * up @ down)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.r": 4, "unet.lora_alpha": 16}, 4.0),
        ({"unet.lora_alpha": 16, "unet.alpha_pattern": {"attn2.to_k": 2, "attn2.to_q": 8}}, 0.5),
        ({"unet.lora_alpha": 4, "unet.use_rslora": True}, 2.0),
        ({"text_encoder.lora_alpha": 16}, 1.0),
        ({"unet.lora_alpha": "loud"}, 1.0),
        (["odd"], 1.0),
    ],
)
def test_the_scale_that_diffusers_keeps_beside_the_layers_is_read(tmp_path, settings, scale):
    down, up = torch.randn(4, 768), torch.randn(640, 4)
    names = peft("down_blocks.1.attentions.0.transformer_blocks.0", "attn2.to_k")
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    save_file(dict(zip(names, (down, up), strict=True)), tmp_path / "some.safetensors", metadata)
    (part,) = imported(tmp_path / "some.safetensors", TOLD).concept.parts
    torch.testing.assert_close(changes(part)[Site("input", 4, 0), "attn2.to_k"], scale * up @ down)


@pytest.mark.parametrize("name", ["soft_toy", "loft", "magnitude"])
def test_an_embedding_may_have_a_name_like_another_kind_of_layer(tmp_path, name):
    save_file({f"<{name}>": torch.randn(768)}, tmp_path / "toy.safetensors")
    assert imported(tmp_path / "toy.safetensors", TOLD).concept.info.slots == 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_alpha_may_be_a_whole_number(tmp_path, suffix):
    names = peft("down_blocks.1.attentions.0.transformer_blocks.0", "attn2.to_k")
    down, up = torch.randn(4, 768), torch.randn(640, 4)
    file = dict(zip(names, (down, up), strict=True))
    file[f"{names[0].removesuffix('.lora_A.weight')}.alpha"] = torch.tensor(8)
    (torch.save if suffix == ".pt" else save_file)(file, tmp_path / f"some{suffix}")
    (part,) = imported(tmp_path / f"some{suffix}", TOLD).concept.parts
    torch.testing.assert_close(changes(part)[Site("input", 4, 0), "attn2.to_k"], 2 * up @ down)


def test_layers_that_a_concept_has_no_place_for_are_told(tmp_path):
    block = "lora_unet_down_blocks_0_attentions_0_"
    pairs = {
        f"{block}transformer_blocks_0_attn1_to_q": (320, 320),
        f"{block}proj_in": (320, 320),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    }
    file = {f"{name}.lora_down.weight": torch.zeros(2, into) for name, (into, _) in pairs.items()}
    file |= {f"{name}.lora_up.weight": torch.zeros(out, 2) for name, (_, out) in pairs.items()}
    old = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_linear_layer"
    file |= {f"{old}.down.weight": torch.zeros(2, 768), f"{old}.up.weight": torch.zeros(768, 2)}
    save_file(file, tmp_path / "some.safetensors")
    concept, sentence = imported(tmp_path / "some.safetensors", TOLD)
    assert "1 layers act" in sentence and "2 of text encoders and 1 outside the transformer blocks" in sentence
    assert concept.info.note == sentence


@pytest.mark.parametrize(("family", "keys"), [("SD 1.5", ["emb_params"]), ("SDXL", ["clip_g", "clip_l"])])
def test_an_embedding_is_exported_where_the_concept_is_one(tmp_path, family, keys):
    concept = embedded(family)
    made = exported(concept, EMBEDDING, "red mug")
    assert sorted(made.tensors) == keys and "embedding:red mug mug" in made.sentence
    made.save(tmp_path / "mug.safetensors")
    assert sorted(load_file(tmp_path / "mug.safetensors")) == keys
    back = imported(tmp_path / "mug.safetensors", TOLD).concept
    assert all(torch.equal(back.embeddings[key], one) for key, one in concept.embeddings.items())


def test_of_word_and_layers_each_file_points_at_the_other():
    both = replace(layered(), embeddings=embedded().embeddings)
    assert f"export it as {KOHYA} too" in exported(both, EMBEDDING, "mug").sentence
    assert "write embedding:mug mug" in exported(both, DIFFUSERS, "mug").sentence


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", ["context rows", "latent instruction"])
def test_what_no_other_format_holds_is_refused_with_the_reason(to, kind):
    base = BASES["SD 1.5"]
    sites, rows = [shape.site for shape in base.sites], torch.zeros(1, 768)
    part = ContextRows(dict.fromkeys(sites, rows)) if kind == "context rows" else LatentInstruction.at(sites, rows)
    with pytest.raises(ValueError, match=f"acts through {kind}.*This format needs.*Share its own file"):
        exported(replace(embedded(), parts=(part,)), to, "mug")


@pytest.mark.parametrize(
    ("concept", "to", "why"),
    [
        (layered("SD 1.5", [Site("middle", 0, 0)]), EMBEDDING, "no embedding of its own"),
        (embedded(), KOHYA, "no low-rank layers"),
        (embedded(phrase="[V] big [V] mug"), EMBEDDING, "stand together"),
    ],
)
def test_what_is_not_there_cannot_be_exported(concept, to, why):
    with pytest.raises(ValueError, match=why):
        exported(concept, to, "mug")


def test_a_recommended_strength_is_told_as_no_file_sets_it():
    concept = embedded()
    concept = replace(concept, info=replace(concept.info, strength=0.7))
    assert "strength is 0.7" in exported(concept, EMBEDDING, "mug").sentence


def test_sites_have_the_names_that_files_give_them():
    shapes = BASES["SDXL"].sites
    assert len(shapes) == 70 and len(BASES["SD 1.5"].sites) == 16 and period_of(shapes) == 3
    site = Site("output", 2, 9)
    assert original_name(site) == "output_blocks.2.1.transformer_blocks.9"
    assert diffusers_name(site, 3) == "up_blocks.0.attentions.2.transformer_blocks.9"
