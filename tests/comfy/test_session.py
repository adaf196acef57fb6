"""Training on real ModelPatcher and CLIP objects that were made in inference mode, as nodes are given them."""

import gc
import weakref
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.fingerprint import fingerprint_of
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.composition import PlacedConcept

from . import tiny
from .other_packs import lora
from .test_prompt_to_picture import encode, sample
from .tiny import DEEP_CLONES

FAMILIES = ["SD 1.5", "SD 2", "SDXL"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def given(family, **how):
    with torch.inference_mode():
        return tiny.fresh_model(family, **how), tiny.fresh_clip(family)


def weights(*networks):
    return [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]


def identical(before, *networks):
    """Bit for bit: compared as bytes, since fp8 has no equality and NaN none either."""
    return all(
        then.keys() == now.keys() and all(torch.equal(_bytes(then[name]), _bytes(now[name])) for name in then)
        for then, now in zip(before, weights(*networks), strict=True)
    )


def _bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def live(family):
    concept = tiny.concept(family=family)
    tensors = {name: tensor.clone().requires_grad_() for name, tensor in concept.tensors().items()}
    return tensors, (PlacedConcept(concept.with_tensors(tensors)),)


def batch(session, composition):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    sigma = session.denoiser.sigma_at(torch.tensor([0.3, 0.6]))
    texts = "a photo of <mug>", "<mug> in a forest, " + "with many other things " * 30
    return (
        x0,
        sigma,
        session.denoiser.add_noise(x0, sigma, noise),
        [session.encoder.encode(t, composition) for t in texts],
    )


def loss_of(session, composition):
    x0, sigma, noised, contexts = batch(session, composition)
    error = session.denoiser.predict(noised, sigma, contexts, composition) - x0
    return (session.denoiser.loss_weight(sigma).view(-1, 1, 1, 1) * error**2).mean()


def gradients(model, clip, family, **how):
    with training_session(model, clip, **how) as session:
        tensors, composition = live(family)
        loss = loss_of(session, composition)
        loss.backward()
    return loss.item(), {name: tensor.grad for name, tensor in tensors.items()}


def test_every_tensor_gets_a_gradient_and_checkpointing_changes_none(family):
    model, clip = given(family)
    loss, plain = gradients(model, clip, family)
    again, saved = gradients(model, clip, family, checkpoint=True)
    assert loss == pytest.approx(again, rel=1e-5)
    for name, gradient in plain.items():
        assert gradient is not None and gradient.norm() > 0, name
        assert (saved[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.mark.parametrize("family", ["SD 1.5"])
@pytest.mark.parametrize("name", ["embedding.l", "context_rows.input.1.0", "context_rows.output.3.0"])
def test_gradients_agree_with_finite_differences(family, name):
    model, clip = given(family)
    _, gradient = gradients(model, clip, family)
    direction = gradient[name] / gradient[name].norm()
    values = []
    for step in (2e-4, -2e-4):
        with training_session(model, clip) as session, torch.no_grad():
            tensors = tiny.concept(family=family).tensors()
            moved = {**tensors, name: tensors[name] + step * direction}
            composition = (PlacedConcept(tiny.concept(family=family).with_tensors(moved)),)
            values.append(loss_of(session, composition).item())
    assert (values[0] - values[1]) / 4e-4 == pytest.approx(gradient[name].norm().item(), rel=0.05)


def test_base_weights_are_bit_identical_after_training(family):
    model, clip = given(family)
    before = weights(model.model, clip.cond_stage_model)
    with training_session(model, clip, checkpoint=True) as session:
        tensors, composition = live(family)
        optimizer = torch.optim.SGD(tensors.values(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(session, composition).backward()
            optimizer.step()
    assert identical(before, model.model, clip.cond_stage_model)
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_base_weights_train_fp32_masters(kind):
    model, clip = given("SD 1.5", dtype=kind, manual=torch.float32)
    before = weights(model.model)
    _, gradient = gradients(model, clip, "SD 1.5", checkpoint=True)
    assert all(one.dtype == torch.float32 and one.norm() > 0 for one in gradient.values())
    assert identical(before, model.model)


def test_an_error_inside_puts_everything_back():
    model, clip = given("SD 1.5")
    modules = [*model.model.modules(), *clip.cond_stage_model.modules()]
    with pytest.raises(KeyboardInterrupt), training_session(model, clip, checkpoint=True):
        assert comfy.model_management.in_training
        assert any("forward" in vars(module) for module in modules)
        raise KeyboardInterrupt
    assert not comfy.model_management.in_training
    assert not any("forward" in vars(module) for module in modules)


def test_a_sample_whose_context_lacks_the_word_is_untouched():
    with training_session(*given("SD 1.5")) as session, torch.no_grad():
        composition = (PlacedConcept(tiny.concept()),)
        contexts = [session.encoder.encode(text, composition) for text in ("a tree", "a <mug>")]
        noised = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        sigma = torch.tensor([1.0, 2.0])
        acted = session.denoiser.predict(noised, sigma, contexts, composition)
        plain = session.denoiser.predict(noised, sigma, contexts)
    assert torch.equal(acted[0], plain[0]) and not torch.allclose(acted[1], plain[1])


def test_one_concept_per_sample_acts_in_its_own_sample():
    concept = tiny.concept()
    rows = concept.parts[0].rows
    both = replace(concept, parts=(replace(concept.parts[0], rows={s: torch.stack((r, -r)) for s, r in rows.items()}),))
    flipped = replace(concept, parts=(replace(concept.parts[0], rows={s: -r for s, r in rows.items()}),))
    with training_session(*given("SD 1.5")) as session, torch.no_grad():
        noised = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)
        sigma = torch.tensor([1.0, 1.0])
        context = session.encoder.encode("a <mug>", (PlacedConcept(concept),))

        def predict(one):
            return session.denoiser.predict(noised, sigma, [context, context], (PlacedConcept(one),))

        assert torch.allclose(predict(both)[0], predict(concept)[0], atol=1e-5)
        assert torch.allclose(predict(both)[1], predict(flipped)[1], atol=1e-5)


def test_the_loss_weight_is_the_models_own_training_loss(family):
    """eps: the error of the noise; v: of the velocity."""
    with training_session(tiny.model(family), tiny.clip(family)) as session, torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        x0, noise, guess = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
        sigma = torch.tensor([0.5, 3.0])
        s = sigma.view(-1, 1, 1, 1)
        sampling = session.denoiser._sampling
        noised = session.denoiser.add_noise(x0, sigma, noise)
        alpha = 1 / (s**2 + 1).sqrt()
        target = alpha * noise - s * alpha * x0 if session.denoiser.base.prediction == "v" else noise
        denoised = sampling.calculate_denoised(sigma, guess, noised)
        weighted = session.denoiser.loss_weight(sigma).view(-1, 1, 1, 1) * (denoised - x0) ** 2
    assert torch.allclose(weighted, (guess - target) ** 2, rtol=1e-2, atol=1e-3)


def test_a_text_is_encoded_once_while_no_embedding_is_trained(monkeypatch):
    with training_session(*given("SD 1.5")) as session:
        composition = (PlacedConcept(tiny.concept()),)
        assert session.encoder.encode("a <mug>", composition) is session.encoder.encode("a <mug>", composition)
        _, trained = live("SD 1.5")
        one, two = (session.encoder.encode("a <mug>", trained) for _ in range(2))
        assert one is not two and one.tensor.requires_grad


def test_nothing_is_kept_below_the_first_site_that_learns():
    """Gradients would pass through blocks that nothing learned can change."""
    with training_session(*given("SD 1.5")) as session:
        names, composition = live("SD 1.5")
        kept = {name: one for name, one in names.items() if ".output." in name}
        for name, one in names.items():
            one.requires_grad_(name in kept)
        network, seen = session.denoiser.network, {}
        last = f"output_blocks.{len(network.output_blocks) - 1}.0"
        for name in ("middle_block.0", "middle_block.2", last):
            network.get_submodule(name).register_forward_hook(
                lambda module, given, out, name=name: seen.update({name: out.requires_grad})
            )
        loss_of(session, composition)
    assert kept and seen == {"middle_block.0": False, "middle_block.2": False, last: True}


def test_of_a_concept_that_was_encoded_only_the_embeddings_stay():
    """Every preview is one: their layers would pile up until learning ends."""
    with training_session(*given("SD 1.5")) as session:
        concept = tiny.low_rank(tiny.concept())
        session.encoder.encode("a <mug>", (PlacedConcept(concept),))
        layers = [weakref.ref(one) for part in concept.parts for one in part.tensors().values()]
        concept.tensors().clear()
        del concept
        gc.collect()
        assert layers and not any(one() is not None for one in layers)


def test_sigmas_fall_over_the_percents_and_stay_finite(family):
    with training_session(tiny.model(family), tiny.clip(family)) as session:
        sigmas = session.denoiser.sigma_at(torch.linspace(0, 1, 9))
    assert torch.isfinite(sigmas).all() and (sigmas.diff() < 0).all() and sigmas[-1] > 0


def test_the_fingerprint_knows_the_weights_and_the_patches_and_nothing_else():
    one, same, patched = tiny.fresh_model(), tiny.fresh_model(), tiny.fresh_model()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    patched.add_patches({key: (torch.ones(32, 768),)}, 0.5)
    assert fingerprint_of(one) == fingerprint_of(same) == fingerprint_of(one.clone())
    assert fingerprint_of(patched) != fingerprint_of(one)
    with torch.no_grad():
        same.model.diffusion_model.get_parameter("out.2.weight").mul_(1.01)
    assert fingerprint_of(same) != fingerprint_of(one)


def test_a_frozen_concept_that_a_node_loaded_can_stand_beside_a_trained_one():
    with torch.inference_mode():
        hat = tiny.concept("hat", "hat")
        frozen = PlacedConcept(hat.with_tensors({name: tensor.clone() for name, tensor in hat.tensors().items()}))
    with training_session(*given("SD 1.5")) as session:
        tensors, composition = live("SD 1.5")
        both = (*composition, frozen)
        context = session.encoder.encode("<mug> under <hat>", both)
        noised = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        session.denoiser.predict(noised, torch.tensor([1.0]), [context], both).sum().backward()
    assert all(tensor.grad.norm() > 0 for tensor in tensors.values())


@pytest.mark.skipif(not DEEP_CLONES, reason="this ComfyUI knows no deep clones")
def test_a_model_that_pages_its_weights_is_trained_on_a_copy_that_the_host_loads(monkeypatch):
    model, clip = given("SD 1.5")
    monkeypatch.setattr(model, "is_dynamic", lambda: True)
    loads = []

    def reload(disable_dynamic=False):
        loads.append(disable_dynamic)
        return tiny.fresh_model()

    model.cached_patcher_init = (reload, ())
    with training_session(model, clip, checkpoint=True) as session:
        assert not any("forward" in vars(module) for module in model.model.modules())
        tensors, composition = live("SD 1.5")
        loss_of(session, composition).backward()
    assert loads == [True] and all(tensor.grad.norm() > 0 for tensor in tensors.values())


@pytest.mark.parametrize("socket", ["MODEL", "CLIP"])
def test_paged_weights_that_cannot_be_loaded_again_are_refused(socket, monkeypatch):
    model, clip = given("SD 1.5")
    monkeypatch.setattr(model if socket == "MODEL" else clip.patcher, "is_dynamic", lambda: True)
    with pytest.raises(ValueError, match=rf"This {socket} pages .* --disable-dynamic-vram"):
        training_session(model, clip).__enter__()


def test_a_model_whose_weights_stay_in_place_is_not_loaded_twice():
    model, clip = given("SD 1.5")
    model.cached_patcher_init = (tiny.fresh_model, ())
    with training_session(model, clip) as session:
        assert session.denoiser.network is model.model.diffusion_model


def test_a_lora_on_the_model_is_trained_through_and_leaves_the_base_alone():
    with torch.inference_mode():
        base, clip = tiny.fresh_model(), tiny.clip()
    words = encode(clip, "a mug"), encode(clip, "")
    before = sample(base, *words)
    patched = lora(base)
    with training_session(patched, clip) as session, torch.no_grad():
        context = session.encoder.encode("a mug")
        noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0])
        through = session.denoiser.predict(noised, sigma, [context])
    with training_session(base, clip) as session, torch.no_grad():
        plain = session.denoiser.predict(noised, sigma, [context])
    assert (through - plain).abs().max() > 0.01 * plain.std()
    assert torch.equal(sample(base, *words), before)


def test_training_on_a_composed_model_does_not_train_through_its_concepts():
    model, clip = given("SD 1.5")
    composition = (PlacedConcept(tiny.concept()),)
    composed = weave_model(model, composition), weave_clip(clip, composition)
    noised, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0])
    with training_session(*composed) as session, torch.no_grad():
        context = session.encoder.encode("a <mug>")
        one = session.denoiser.predict(noised, sigma, [context])
    with training_session(model, clip) as session, torch.no_grad():
        assert torch.equal(one, session.denoiser.predict(noised, sigma, [context]))
