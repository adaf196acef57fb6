"""The same weights in ComfyUI's layout and in diffusers', the same concept: the same output."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import comfy.sd1_clip
import comfy.utils
import pytest
import torch
from concept_loom.personalization.comfyui.acting_block import injected
from concept_loom.personalization.comfyui.backbone import Backbone
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.comfyui.prompt_encoder import ClipPromptEncoder
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.parts import ImageTokens, LatentInstruction, NestedValues

from . import tiny

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed; its pipelines cannot be compared")
import transformers  # noqa: E402
from concept_loom.personalization.diffusers import base_of, weave  # noqa: E402
from concept_loom.personalization.pipeline.unet import sites_of  # noqa: E402

FAMILIES = ["SD 1.5", "SD 2", "SDXL"]
TOKENIZER = Path(comfy.sd1_clip.__file__).with_name("sd1_tokenizer")
CONFIGS = {"l": "sd1_clip_config.json", "h": "text_encoders/sd2_clip_config.json", "g": "clip_config_bigg.json"}
HALF = torch.zeros(64, 64)
HALF[:, :32] = 1
MUG = "a photo of <mug>, at dawn"


@cache
def host_model(family):
    """With text attention of ordinary size: the other tests' loud one makes rounding alone differ by 1e-4."""
    model = tiny.fresh_model(family)
    for name, weight in model.model.diffusion_model.named_parameters():
        if ".attn2." in name and weight.ndim == 2:
            weight.data /= 3
    return model


def unet_of(family):
    host = host_model(family).model
    config, xl = host.model_config.unet_config, family == "SDXL"
    heads = {shape.width: shape.heads for shape in tiny.concept("mug", "mug", family).info.base.sites}
    channels = [config["model_channels"] * one for one in config["channel_mult"]]
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2,
        cross_attention_dim=config["context_dim"],
        attention_head_dim=[heads[width] for width in channels],  # diffusers means their number
        transformer_layers_per_block=[1, 2] if xl else 1,
        use_linear_projection=family != "SD 1.5",
        **({"addition_embed_type": "text_time", "addition_time_embed_dim": 256} if xl else {}),
        **({"projection_class_embeddings_input_dim": 2816} if xl else {}),
    )
    weights, names = host.diffusion_model.state_dict(), comfy.utils.unet_to_diffusers(config)
    unet.load_state_dict({name: weights[names[name]] for name in unet.state_dict()})
    return unet


def encoder_of(family, key):
    """Layer for layer as in the pipelines: SD 2 ends before the last one, SDXL reads what is before it."""
    model = getattr(tiny.clip(family).cond_stage_model, f"clip_{key}").transformer
    file = Path(comfy.sd1_clip.__file__).parent / CONFIGS[key]
    config = transformers.CLIPTextConfig.from_json_file(file)
    config.num_hidden_layers, config.intermediate_size = 2 if key == "h" else 3, 64
    kind = transformers.CLIPTextModelWithProjection if key == "g" else transformers.CLIPTextModel
    encoder, weights = kind(config), model.state_dict()
    named = {name: weights.get(name, weights.get(f"text_model.{name}")) for name in encoder.state_dict()}
    encoder.load_state_dict({name: one for name, one in named.items() if one is not None}, strict=False)
    assert not [name for name, one in named.items() if one is None and "position_ids" not in name]
    return encoder.eval()


def tokenizer_of(key):
    pad: dict[str, Any] = {} if key == "l" else {"pad_token": "!"}
    return transformers.CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77, **pad)


@cache
def pipe(family):
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if family == "SD 2" else "epsilon",
    )
    parts = {"vae": None, "unet": unet_of(family).eval(), "scheduler": scheduler, "feature_extractor": None}
    if family == "SDXL":
        return diffusers.StableDiffusionXLPipeline(
            text_encoder=encoder_of(family, "l"),
            text_encoder_2=encoder_of(family, "g"),
            tokenizer=tokenizer_of("l"),
            tokenizer_2=tokenizer_of("g"),
            add_watermarker=False,
            **parts,
        )
    key = "h" if family == "SD 2" else "l"
    encoder, tokenizer = encoder_of(family, key), tokenizer_of(key)
    return diffusers.StableDiffusionPipeline(
        text_encoder=encoder, tokenizer=tokenizer, safety_checker=None, requires_safety_checker=False, **parts
    )


@pytest.fixture
def woven():
    """Weaves into a pipeline for the time of a test."""
    made = []

    def make(family, *placed):
        made.append(weave(pipe(family), placed))
        return made[-1]

    yield make
    for one in reversed(made):
        one.remove()


def quiet(concept):
    """At a context's own size, where other tests take three times that."""
    rows = {name: one if name.startswith("embedding") else one / 3 for name, one in concept.tensors().items()}
    return concept.with_tensors(rows)


def long_values(concept):
    return replace(concept, info=replace(concept.info, value_norm=2.0))


PARTS = {
    "context rows": lambda family: quiet(tiny.concept("mug", "mug", family, trained=False)),
    "embedding": lambda family: tiny.without_parts(tiny.concept("mug", "mug", family)),
    "image tokens": lambda family: tiny.guest(ImageTokens, tiny.concept("mug", "mug", family)),
    "nested values": lambda family: quiet(tiny.guest(NestedValues, tiny.concept("mug", "mug", family))),
    "nested, long": lambda family: long_values(quiet(tiny.guest(NestedValues, tiny.concept("mug", "mug", family)))),
    "instruction": lambda family: quiet(tiny.guest(LatentInstruction, tiny.concept("mug", "mug", family))),
    "low rank": lambda family: tiny.low_rank(tiny.concept("mug", "mug", family)),
}
HOW = {
    "whole": {},
    "strength": {"strength": 0.6},
    "region": {"region": HALF},
    "sparing": {"sparing": True},
    "merged": {"sparing": False},
    "focus": {"focus": 2.0},
}
CASES = [(part, how) for part in PARTS for how in ("whole", "region")]
CASES += [("context rows", "strength"), ("low rank", "strength"), ("low rank", "sparing"), ("low rank", "merged")]
CASES += [(part, "focus") for part in ("context rows", "nested values", "embedding")]


class Calls:
    """What ComfyUI's UNet was given and what it made of it."""

    def __init__(self, unet):
        self.hook = unet.register_forward_hook(self.note, with_kwargs=True)

    def note(self, unet, args, kwargs, out):
        named = dict(zip(("x", "timesteps", "context"), args, strict=False)) | kwargs
        self.x, self.t, self.y, self.out = named["x"], named["timesteps"], named.get("y"), out


@torch.no_grad()
def by_comfyui(family, placed, texts, percent=0.5):
    """Contexts and the UNet's output for a batch of one sample per text, and what it was given."""
    model = weave_model(host_model(family), placed)
    encoder = ClipPromptEncoder(tiny.clip(family))
    contexts = [encoder.encode(text, placed) for text in texts]
    noise = torch.randn(len(texts), 4, 16, 16, generator=torch.Generator().manual_seed(5))
    merged = any(one.merges for one in placed) and model.patches
    model.patch_model()
    beside = tuple(one for one in placed if not (merged and one.merges))
    calls = Calls(model.model.diffusion_model)
    try:
        backbone = Backbone(model)
        sigma = backbone.sigma_at(torch.full((len(texts),), percent))
        with injected(model):
            backbone.predict(noise, sigma, contexts, beside)
    finally:
        calls.hook.remove()
        model.unpatch_model()
    return contexts, calls


@torch.no_grad()
def by_diffusers(family, texts, calls):
    own, kwargs = pipe(family), {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    out = own.encode_prompt(texts, **kwargs)
    sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]] * len(texts))
    extra = {"added_cond_kwargs": {"text_embeds": out[2], "time_ids": sizes}} if family == "SDXL" else {}
    drawn = own.unet(calls.x, calls.t, encoder_hidden_states=out[0], **extra).sample
    return out, drawn


def differ(one, two):
    """The largest difference, in standard deviations."""
    return ((one - two).abs().max() / two.std()).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("part", "how"), CASES)
def test_every_part_acts_as_in_comfyui(woven, family, part, how):
    placed = (PlacedConcept(PARTS[part](family), **HOW[how]),)
    texts = [MUG, "a street at night", "the <mug> and the <Mug> mug"]
    contexts, calls = by_comfyui(family, placed, texts)
    before = () if part == "embedding" else (replace(placed[0], concept=tiny.without_parts(placed[0].concept)),)
    woven(family, *before)
    _, plain = by_diffusers(family, texts if before else [text.replace("<mug>", "mug") for text in texts], calls)
    mine = woven(family, *placed)
    encoded, drawn = by_diffusers(family, texts, calls)
    for context, own in zip(contexts, encoded[0], strict=True):
        assert differ(own[None], context.tensor) < 1e-4
    assert (drawn - calls.out).abs().max() < 1e-4 < 0.01 < differ(drawn[::2], plain[::2])
    (report,) = mine.reports()
    assert report.cause == "" and report.acted == report.sites


def test_prompts_that_do_not_hold_the_word_keep_their_bits(woven):
    placed = PlacedConcept(tiny.low_rank(tiny.guest(ImageTokens, tiny.concept())), sparing=True)
    rows = replace(placed, concept=replace(placed.concept, parts=(*placed.concept.parts, *tiny.concept().parts)))
    texts = ["a street at night", MUG]
    _, calls = by_comfyui("SD 1.5", (), texts)
    _, plain = by_diffusers("SD 1.5", [texts[0], "a photo of mug, at dawn"], calls)
    woven("SD 1.5", rows)
    _, drawn = by_diffusers("SD 1.5", texts, calls)
    assert torch.equal(drawn[0], plain[0]) and differ(drawn[1], plain[1]) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_0_is_the_class_word_bit_for_bit(woven, family):
    _, calls = by_comfyui(family, (), ["a"])
    _, plain = by_diffusers(family, ["a photo of mug, at dawn"], calls)
    mine = woven(family, PlacedConcept(tiny.concept("mug", "mug", family), strength=0.0))
    _, drawn = by_diffusers(family, [MUG], calls)
    assert torch.equal(drawn, plain) and mine.reports()[0].cause == "strength"


def test_two_concepts_do_not_see_each_others_slots(woven):
    placed = tuple(PlacedConcept(tiny.concept(word, word)) for word in ("mug", "hat"))
    texts = ["a <mug> beside a <hat>", "a <hat>"]
    contexts, calls = by_comfyui("SD 1.5", placed, texts)
    woven("SD 1.5", *placed)
    encoded, drawn = by_diffusers("SD 1.5", texts, calls)
    for context, own in zip(contexts, encoded[0], strict=True):
        assert differ(own[None], context.tensor) < 1e-4
    assert (drawn - calls.out).abs().max() < 1e-4


def latents(family, prompt: str | None = "a photo of <mug>", **how):
    generator = torch.Generator().manual_seed(1)
    own = pipe(family)
    own.set_progress_bar_config(disable=True)
    return own(prompt, num_inference_steps=2, height=128, width=96, output_type="latent", generator=generator, **how)[0]


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_the_pipeline_draws_with_the_word_and_is_itself_again_afterwards(woven, family):
    plain = latents(family, "a photo of mug")
    before = {name: one.clone() for name, one in pipe(family).unet.state_dict().items()}
    concept = tiny.concept("mug", "mug", family)
    mine = woven(family, PlacedConcept(replace(concept, parts=(*concept.parts, *tiny.low_rank(concept).parts))))
    how = {"negative_prompt": "blurry", "num_images_per_prompt": 2}
    drawn = latents(family, **how)
    assert torch.isfinite(drawn).all() and len(drawn) == 2
    assert mine.reports()[0].sentence == f"<mug> acted at {mine.reports()[0].sites} of {mine.reports()[0].sites} sites."
    assert differ(latents(family), plain) > 0.01
    mine.remove()
    assert torch.equal(latents(family, "a photo of mug"), plain)
    assert "encode_prompt" not in pipe(family).__dict__
    assert all(torch.equal(one, before[name]) for name, one in pipe(family).unet.state_dict().items())


def test_a_word_that_is_not_said_is_reported(woven, caplog):
    mine = woven("SD 1.5", PlacedConcept(tiny.concept()))
    latents("SD 1.5", "a photo of a <mugg>")
    assert mine.reports()[0].cause == "word" and "but <mugg> does" in mine.reports()[0].sentence
    assert "<mug> did not act: it stands in no prompt" in caplog.text


def test_a_window_counts_in_the_pipelines_timesteps(woven):
    plain = latents("SD 1.5", "a photo of mug mug")  # its phrase, with the class word in the slot
    rows = tiny.concept(trained=False)
    mine = woven("SD 1.5", PlacedConcept(rows, start=0.9, end=0.95))
    out = latents("SD 1.5")
    assert differ(out, plain) < 1e-4 and mine.reports()[0].cause == "window"


def test_weaving_again_adds_and_the_same_word_replaces(woven):
    woven("SD 1.5", PlacedConcept(tiny.concept("mug", "mug")), PlacedConcept(tiny.concept("hat", "hat")))
    mine = weave(pipe("SD 1.5"), (PlacedConcept(tiny.concept("mug", "mug"), strength=0.5),))
    try:
        assert [(one.word, one.strength) for one in mine.composition] == [("hat", 1.0), ("mug", 0.5)]
    finally:
        mine.remove()


def test_a_word_beyond_the_prompts_end_does_not_act(woven):
    mine = woven("SD 1.5", PlacedConcept(tiny.concept()))
    out = latents("SD 1.5", "many small things, " * 30 + "<mug>")
    assert torch.isfinite(out).all() and mine.reports()[0].cause == "word"


def test_another_family_and_a_foreign_processor_are_refused_and_leave_nothing():
    with pytest.raises(ValueError, match="was learned for SDXL"):
        weave(pipe("SD 1.5"), (PlacedConcept(tiny.concept("mug", "mug", "SDXL")),))
    attention = pipe("SD 1.5").unet.mid_block.attentions[0].transformer_blocks[0].attn2
    plain = attention.processor

    class Foreign(type(plain)):
        pass

    attention.set_processor(Foreign())
    with pytest.raises(ValueError, match="processor Foreign.*Take it off"):
        weave(pipe("SD 1.5"), (PlacedConcept(tiny.concept()),))
    attention.set_processor(plain)
    kinds = {type(one).__name__ for one in pipe("SD 1.5").unet.attn_processors.values()}
    assert "SiteProcessor" not in kinds and "encode_prompt" not in pipe("SD 1.5").__dict__


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipelines_sites_are_those_of_the_same_weights_in_comfyui(family):
    theirs, ours = base_of(pipe(family)), tiny.concept("mug", "mug", family).info.base
    assert theirs.sites == ours.sites and dict(theirs.encoders) == dict(ours.encoders)
    assert (theirs.family, theirs.prediction) == (ours.family, ours.prediction)


def test_of_two_prompts_that_are_encoded_alike_the_one_with_the_word_gets_the_concept(woven):
    """Until something is learned a slot is its class word, and many imported LoRAs have no slot of their own."""
    placed = PlacedConcept(tiny.concept(trained=False))
    texts = ["a photo of <mug>", "a photo of mug mug"]
    _, calls = by_comfyui("SD 1.5", (placed,), texts)
    (_, plain), mine = by_diffusers("SD 1.5", texts[1:] * 2, calls), woven("SD 1.5", placed)
    _, drawn = by_diffusers("SD 1.5", texts, calls)
    assert torch.equal(drawn[1], plain[1]) and differ(drawn[0], plain[0]) > 0.01
    _, after = by_diffusers("SD 1.5", texts[1:] * 2, calls)
    assert torch.equal(after, plain) and mine.reports()[0].cause == "word"


def test_more_prompts_than_are_remembered_keep_their_words_in_one_call(woven):
    placed = PlacedConcept(tiny.concept())
    texts = [f"{number} photos of <mug>" for number in range(20)]
    _, calls = by_comfyui("SD 1.5", (placed,), texts)
    mine = woven("SD 1.5", placed)
    _, drawn = by_diffusers("SD 1.5", texts, calls)
    assert (drawn - calls.out).abs().max() < 1e-4 and mine.reports()[0].cause == ""


def test_encodings_that_are_given_by_hand_keep_their_words_without_the_text_encoder(woven):
    woven("SD 1.5", PlacedConcept(tiny.concept(trained=False)))
    own = pipe("SD 1.5")
    texts = MUG, "a photo of mug mug, at dawn"
    wanted = [latents("SD 1.5", text, negative_prompt="blurry") for text in texts]
    kwargs = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    made = [own.encode_prompt(text, negative_prompt="blurry", **kwargs) for text in texts]
    encoder, own.text_encoder = own.text_encoder, None
    try:
        for want, (positive, negative) in zip(wanted, made, strict=True):
            drawn = latents("SD 1.5", None, prompt_embeds=positive, negative_prompt_embeds=negative)
            assert differ(drawn, want) < 1e-4
    finally:
        own.text_encoder = encoder
    assert differ(*wanted) > 0.01


def test_a_pipeline_without_a_text_encoder_is_refused():
    own = pipe("SDXL")
    encoder, own.text_encoder = own.text_encoder, None
    try:
        with pytest.raises(ValueError, match="has no text encoder.*Weave while the pipeline is whole"):
            weave(own, (PlacedConcept(tiny.concept("mug", "mug", "SDXL")),))
    finally:
        own.text_encoder = encoder


def test_sliced_attention_draws_the_same(woven):
    placed = PlacedConcept(tiny.guest(ImageTokens, tiny.concept()))
    woven("SD 1.5", placed).remove()
    whole = weave(pipe("SD 1.5"), (placed,))
    wanted = latents("SD 1.5")
    whole.remove()
    before = pipe("SD 1.5").unet.attn_processors
    pipe("SD 1.5").enable_attention_slicing(1)
    try:
        sliced = weave(pipe("SD 1.5"), (placed,))
        drawn = latents("SD 1.5")
        sliced.remove()
    finally:
        pipe("SD 1.5").unet.set_attn_processor(before)
    assert differ(drawn, wanted) < 1e-4


def test_layers_of_one_matrix_for_three_are_refused_for_low_rank(woven):
    own = pipe("SD 1.5")
    own.fuse_qkv_projections(vae=False)
    try:
        with pytest.raises(ValueError, match="fuse_qkv_projections.*unfuse_qkv_projections"):
            weave(own, (PlacedConcept(tiny.low_rank(tiny.concept())),))
    finally:
        own.unfuse_qkv_projections(vae=False)
    kinds = {type(one).__name__ for one in own.unet.attn_processors.values()}
    assert "SiteProcessor" not in kinds and "encode_prompt" not in own.__dict__
    woven("SD 1.5", PlacedConcept(tiny.low_rank(tiny.concept())))  # as the sentence advises


def test_an_embedding_of_several_vectors_before_the_word_does_not_shift_its_rows(woven):
    own, placed = pipe("SD 1.5"), PlacedConcept(tiny.concept())
    vectors = torch.randn(3, 768, generator=torch.Generator().manual_seed(2)) / 20
    own.load_textual_inversion({"<ink>": vectors}, token="<ink>")
    for number, vector in enumerate(vectors):
        own.load_textual_inversion({f"<one{number}>": vector[None]}, token=f"<one{number}>")
    try:
        mine = woven("SD 1.5", placed)
        by_name = latents("SD 1.5", "<ink> photo of <mug>")
        spelt_out = latents("SD 1.5", "<one0> <one1> <one2> photo of <mug>")
        mine.remove()
    finally:
        own.unload_textual_inversion()
    assert differ(by_name, spelt_out) < 1e-4


class Wrapped(torch.nn.Module):
    """As peft stands around a layer while a LoRA is loaded."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, x):
        return self.base_layer(x)


def test_low_rank_layers_outlive_the_wrapper_of_a_lora_that_is_unloaded(woven):
    placed, own = PlacedConcept(tiny.low_rank(tiny.concept()), sparing=True), pipe("SD 1.5")
    woven("SD 1.5", placed)
    wanted = latents("SD 1.5")
    own.encode_prompt.__self__.remove()
    blocks = [one for _, one in sites_of(own.unet)]
    for block in blocks:
        block.attn2.to_out[0] = Wrapped(block.attn2.to_out[0])
    mine = weave(own, (placed,))
    for block in blocks:
        block.attn2.to_out[0] = block.attn2.to_out[0].base_layer
    drawn = latents("SD 1.5")
    mine.remove()
    assert torch.equal(drawn, wanted)


def test_what_another_put_on_a_block_itself_stays(woven):
    block = pipe("SD 1.5").unet.mid_block.attentions[0].transformer_blocks[0]
    own, calls = block.forward, []
    block.forward = lambda *args, **kwargs: (calls.append(1), own(*args, **kwargs))[1]
    try:
        theirs = block.forward
        mine = woven("SD 1.5", PlacedConcept(tiny.low_rank(tiny.concept())))
        latents("SD 1.5")
        mine.remove()
        assert calls and block.__dict__["forward"] is theirs
    finally:
        del block.forward
