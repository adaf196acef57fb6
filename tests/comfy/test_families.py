"""Every UNet that ComfyUI loads: a concept is learned, saved, loaded and composed on it, or refused by its name."""

from copy import copy
from dataclasses import replace

import comfy.sd
import pytest
import torch
from comfy import supported_models as known
from comfy.ldm.models.autoencoder import AutoencoderKL
from concept_loom.benchmarks.full_size import VAE
from concept_loom.personalization.checkpoint import load, save
from concept_loom.personalization.comfyui.family import base_of
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.fit import fits
from concept_loom.personalization.learner import learn

import nodes

from . import tiny
from .neighbours import sampling
from .test_learning import NESTED, QUICK, STAGED, latents, task
from .test_prompt_to_picture import Canvas, differ, encode, sample
from .variants import KINDS, VARIANTS, Variant

EACH = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
SHORT = (replace(QUICK, steps=1), replace(STAGED, steps=3), replace(NESTED, steps=1))  # a step per stage


@pytest.fixture(scope="module")
def vae():
    """Of random weights: ComfyUI's layers leave theirs as they find them."""
    generator = torch.Generator().manual_seed(4)
    with torch.inference_mode():
        state = AutoencoderKL(embed_dim=VAE["z_channels"], ddconfig=VAE).state_dict()
        drawn = {name: 0.05 * torch.randn(one.shape, generator=generator) for name, one in state.items()}
        return comfy.sd.VAE(sd=drawn)


def made(variant: Variant):
    with torch.inference_mode():
        return tiny.fresh_model(variant.family, **variant.how)


@pytest.mark.parametrize("recipe", SHORT, ids=lambda recipe: recipe.method)
@EACH
def test_a_concept_is_learned_saved_loaded_and_composed(variant, recipe, tmp_path):
    model, clip = made(variant), tiny.clip(variant.family)
    assert base_of(model).prediction == variant.prediction
    with training_session(model, clip) as session:
        learned = learn(task(session, recipe, latents=latents(held_out=0)))
    assert torch.tensor(learned.losses).isfinite().all()
    save(learned.concept, tmp_path / "mug.safetensors")
    canvas = Canvas(PlacedConcept(load(tmp_path / "mug.safetensors")), family=variant.family, model=model)
    negative = encode(canvas.clip, "blurry")
    plain, drawn = (sample(canvas.model, encode(canvas.clip, text), negative) for text in ("a mug", "a <mug>"))
    assert canvas.report().acted == canvas.report().sites == len(base_of(model).sites)
    assert torch.isfinite(drawn).all() and differ(drawn, plain) > 1e-3


@pytest.mark.parametrize("variant", [VARIANTS[f"{family} inpainting"] for family in tiny.CONFIGS], ids=tiny.CONFIGS)
def test_an_inpainting_model_draws_a_concept_where_the_mask_is(variant, vae):
    canvas = Canvas(PlacedConcept(tiny.concept(family=variant.family)), family=variant.family, model=made(variant))
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1

    def drawn(text, mask):
        said = encode(canvas.clip, text), encode(canvas.clip, "blurry")
        positive, negative, latent = nodes.InpaintModelConditioning().encode(*said, pixels, vae, mask)
        return nodes.KSampler().sample(canvas.model, 1, 2, 4.0, "euler", "normal", positive, negative, latent)[0]

    with torch.inference_mode():
        kept = vae.encode(pixels)
        plain, there = (drawn(text, left)["samples"] for text in ("a mug", "a <mug>"))
        report = canvas.report()
        wide = drawn("a <mug>", torch.ones_like(left))["samples"]
    assert report.acted == report.sites == len(base_of(canvas.model).sites)
    assert differ(there[..., :4], plain[..., :4]) > 1e-3 and differ(wide[..., 4:], kept[..., 4:]) > 1e-3
    torch.testing.assert_close(there[..., 4:], kept[..., 4:], rtol=0, atol=1e-4)


@EACH
def test_training_and_sampling_predict_the_same(variant):
    """One step of euler at cfg 1 is the denoised latent; sizes differ, so that SDXL is told the right one."""
    model, placed = made(variant), PlacedConcept(tiny.concept(family=variant.family))
    canvas, seen = Canvas(placed, family=variant.family, model=model), []

    def spy(args):
        seen.append((args["input"], args["sigma"], args["denoised"]))
        return args["denoised"]

    canvas.model.set_model_sampler_post_cfg_function(spy)
    words = encode(canvas.clip, "a <mug>"), encode(canvas.clip, "")
    sample(canvas.model, *words, size=(16, 24), steps=1, cfg=1.0)
    noised, sigma, denoised = (tensor.clone() for tensor in seen[0])
    with training_session(model, tiny.clip(variant.family)) as session, torch.no_grad():
        context = session.encoder.encode("a <mug>", (placed,))
        predicted = session.denoiser.predict(noised, sigma, [context], (placed,))
    narrow = variant.how.get("dtype") in (torch.float16, torch.bfloat16) and "manual" not in variant.how
    assert (predicted - denoised).norm() < (0.1 if narrow else 1e-4) * denoised.norm()


def errors(model, family):
    """Of two guesses: the weighted distance of what they mean for x0, and their own."""
    with training_session(model, tiny.clip(family)) as session:
        generator = torch.Generator().manual_seed(2)
        noised, one, other = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
        sigma = torch.tensor([0.1, 0.5, 3.0])
        x0 = [session.denoiser._sampling.calculate_denoised(sigma, guess, noised) for guess in (one, other)]
        weight = session.denoiser.loss_weight(sigma).view(-1, 1, 1, 1)
    return weight * (x0[0] - x0[1]) ** 2, (one - other) ** 2


@EACH
def test_the_weighted_error_of_x0_is_the_error_of_what_the_model_predicts(variant):
    weighted, own = errors(made(variant), variant.family)
    torch.testing.assert_close(weighted, own, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("kind", "prediction"), [("v_prediction", "v"), ("lcm", "eps"), ("x0", "x0")])
def test_a_node_that_says_what_the_model_predicts_is_believed(kind, prediction):
    model = sampling(kind)(tiny.model())
    assert base_of(model).prediction == prediction
    torch.testing.assert_close(*errors(model, "SD 1.5"), rtol=1e-2, atol=1e-3)
    assert (
        f"predicts eps; this model predicts {prediction}" in fits(tiny.concept(), base_of(model)) or prediction == "eps"
    )


@pytest.mark.parametrize("kind", known.models, ids=lambda kind: kind.__name__)
def test_every_family_of_the_host_is_ours_or_is_refused_by_its_name(kind):
    family = next((name for name, ours in tiny.CONFIGS.items() if issubclass(kind, ours)), "SD 1.5")
    model = tiny.model(family).clone()
    model.model = copy(model.model)
    model.model.model_config = object.__new__(kind)
    vars(model.model.model_config).update(vars(tiny.model(family).model.model_config))
    if kind in KINDS:
        assert base_of(model, fingerprint=False).family == family
    else:
        with pytest.raises(ValueError, match=f"This model is a {kind.__name__} .* Load a checkpoint"):
            base_of(model, fingerprint=False)
