"""How the methods start: where a fresh concept's tensors come from, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from concept_loom.personalization.batch import captioned, training_texts
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.concept import ROLES, Base
from concept_loom.personalization.exchange.families import known_bases
from concept_loom.personalization.learning_state import fresh_optimizer
from concept_loom.personalization.methods import AUTO, LARGEST, METHODS, Beginning, chosen, start
from concept_loom.personalization.muon import Muon
from concept_loom.personalization.parts.low_rank import LowRank, layer_widths
from concept_loom.personalization.recipe import FAMILIES, Recipe, Stage, recipe_for, sourced

from .toy import BASE, SITES, ToyDenoiser, ToyPromptEncoder

QUICK = Recipe("quick", (Stage(("context_rows.",), 1e-2),), steps=10)


def beginning(**changes: object) -> Beginning:
    return replace(Beginning(ToyPromptEncoder(), BASE, QUICK, "Mug", "coffee mug", "subject"), **changes)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_fresh_quick_concept_changes_no_prediction_of_its_first_caption(slots: int) -> None:
    encoder, denoiser = ToyPromptEncoder(), ToyDenoiser()
    concept = start(beginning(prompt_encoder=encoder, recipe=replace(QUICK, slots=slots)))
    composition = (PlacedConcept(concept),)
    context = encoder.encode("a photo of <mug>", composition)
    noised, sigma = torch.randn(1, 4, 4, 4), torch.ones(1)
    with_rows = denoiser.predict(noised, sigma, [context], composition)
    assert torch.equal(with_rows, denoiser.predict(noised, sigma, [context]))


def test_each_encoder_gives_its_own_channels_of_a_row() -> None:
    encoder = ToyPromptEncoder()
    concept = start(beginning(prompt_encoder=encoder))
    context = encoder.encode("a photo of <mug>", (PlacedConcept(concept),))
    row = context.slots[0].rows["l"][0]
    for tensor in concept.tensors().values():
        if tensor.shape[-1] == context.tensor.shape[-1]:
            assert torch.equal(tensor[0], context.tensor[0, row])


@pytest.mark.parametrize(
    ("method", "role", "class_word", "phrase"),
    [
        ("quick", "subject", "mug", "[V] mug"),
        ("quick", "both", "stuffed toy", "[V] stuffed toy"),
        ("quick", "style", "", "[V] style"),
        ("quick", "style", "watercolour", "[V] style"),
        ("textual inversion", "subject", "mug", "[V]"),
    ],
)
def test_the_phrase_follows_method_and_role(method: str, role: str, class_word: str, phrase: str) -> None:
    recipe = replace(QUICK, method=method)
    assert start(beginning(recipe=recipe, role=role, class_word=class_word)).info.phrase == phrase


def test_textual_inversion_has_an_embedding_per_encoder_and_no_parts() -> None:
    concept = start(beginning(recipe=replace(QUICK, method="textual inversion", slots=3)))
    assert concept.parts == ()
    assert {name: tuple(tensor.shape) for name, tensor in concept.tensors().items()} == {
        "embedding.l": (3, 10),
        "embedding.g": (3, 14),
    }


STAGED = recipe_for("staged", "SD 1.5", "subject")
STAGED_3 = replace(STAGED, rank=3)


def test_staged_starts_as_the_class_word_with_layers_that_change_nothing() -> None:
    concept = start(beginning(recipe=STAGED_3))
    assert concept.info.phrase == "[V] coffee mug" and concept.hash == start(beginning(recipe=STAGED_3)).hash
    (part,) = concept.parts
    for shape in BASE.sites:
        for name, (into, out) in layer_widths(shape).items():
            pair = part.layers[shape.site][name]
            assert pair.a.shape == (3, into) and pair.b.shape == (out, 3)
            assert pair.a.abs().max() > 0 and not pair.b.any()


def test_its_stages_train_the_word_then_text_layers_then_all_layers() -> None:
    tensors = start(beginning(recipe=STAGED_3)).tensors()
    trained = []
    for stage in STAGED.stages:
        fresh_optimizer(tensors, stage, STAGED)
        trained.append({name for name, tensor in tensors.items() if tensor.requires_grad})
    layers = {name for name in tensors if name.startswith("low_rank.")}
    assert trained == [set(tensors) - layers, {name for name in layers if ".attn2." in name}, layers]
    assert {name.split(".", 4)[4] for name in layers} == {
        f"{layer}.{ab}" for layer in layer_widths(BASE.sites[0]) for ab in "ab"
    }


def test_muon_moves_layers_and_adamw_the_word() -> None:
    recipe = replace(STAGED_3, optimizer="muon")
    tensors = start(beginning(recipe=recipe)).tensors()
    assert [type(fresh_optimizer(tensors, stage, recipe)) for stage in recipe.stages] == [torch.optim.AdamW, Muon, Muon]
    assert type(fresh_optimizer(tensors, recipe.stages[2], STAGED_3)) is torch.optim.AdamW


def test_staged_steps_and_prompts_are_the_papers() -> None:
    paper, fast = sourced("staged", "SD 2").paper, sourced("staged fast", "SD 2").paper
    assert paper and paper.stage_steps() == (60, 100, 500) and fast and fast.stage_steps() == (60, 100, 200)
    for role, word in (("subject", "a photo of a {}"), ("style", "a picture in {}")):
        recipe = recipe_for("staged", "SD 2", role)
        assert recipe.templates == (word,) and recipe.captions and not paper.captions


def test_low_rank_layers_need_a_rank() -> None:
    with pytest.raises(ValueError, match="rank is 0"):
        start(beginning(recipe=replace(STAGED, rank=0)))


@pytest.mark.parametrize("keys", [("middle.0.0",), ("middle.*", "output.9.*")])
def test_rows_start_at_the_chosen_sites_only(keys: tuple[str, ...]) -> None:
    concept = start(beginning(recipe=replace(QUICK, sites=keys)))
    assert [part.sites for part in concept.parts] == [(SITES[1],)]


@pytest.mark.parametrize("keys", [("middle.9.9",), ("middle.9.*",), ("middle.0.0", "middle.9.9")])
def test_sites_that_are_not_there_are_refused_by_name(keys: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="The sites name middle.9"):
        start(beginning(recipe=replace(QUICK, sites=keys)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"class_word": " "}, "No class word"), ({"role": "hat"}, "role is 'hat'"), ({"placeholder": ""}, "placeholder")],
)
def test_missing_words_are_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        start(beginning(**changes))


def test_a_concept_too_large_for_its_family_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 430,000"):
        recipe = replace(QUICK, method="textual inversion", slots=20_000)
        start(beginning(base=replace(BASE, family="SD 1.5"), recipe=recipe))


@pytest.mark.parametrize("base", known_bases(), ids=lambda base: base.family)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_fits_its_limit_on_every_family_as_it_comes(method: str, base: Base) -> None:
    for role in ROLES:
        recipe = recipe_for(method, base.family, role)
        encoder, image_tokens = ToyPromptEncoder(base.encoders), recipe.image_tokens * sum(s.width for s in base.sites)
        recipe = replace(recipe, image_tokens=0)  # they start from pictures
        encoder.tokens += recipe.slots
        concept = start(beginning(prompt_encoder=encoder, base=base, recipe=recipe, role=role))
        if not any(isinstance(part, LowRank) for part in concept.parts):
            assert concept.parameters + image_tokens <= LARGEST.get(base.family, math.inf)


@pytest.mark.parametrize("role", ROLES)
def test_auto_names_a_method_that_exists_for_any_number_of_pictures(role: str) -> None:
    assert {chosen(AUTO, role, count) for count in (1, 5, 20)} <= set(METHODS)
    assert chosen("textual inversion", role, 5) == "textual inversion"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_recipe_with_a_budget_for_every_family(method: str, family: str) -> None:
    for role in ROLES:
        recipe = recipe_for(method, family, role)
        assert recipe.method == method and recipe.steps
        assert all("{}" in template for template in recipe.templates)
    paper = sourced(method, family).paper
    assert paper is None or paper.steps


def test_a_family_without_a_recipe_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'quick' on Flux"):
        recipe_for("quick", "Flux", "subject")


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a photo of {} on a table", "a photo of <mug> on a table"),
        ("my <Mug> at home", "my <Mug> at home"),
        ("a Coffee Mug and a coffee mug", "a <mug> and a coffee mug"),
        ("on a beach", "<mug>, on a beach"),
    ],
)
def test_a_caption_says_the_placeholder_once(caption: str, text: str) -> None:
    assert captioned(caption, "coffee mug", "mug") == text


def test_a_placeholder_is_no_pattern() -> None:
    assert captioned("a mug at home", "mug", r"red\mug") == r"a <red\mug> at home"


def test_pictures_without_a_caption_take_the_templates() -> None:
    assert training_texts(["", "{} here"], ["a {}", "{}"], "mug", "mug") == [("a <mug>", "<mug>"), ("<mug> here",)]


def test_past_its_reach_a_run_takes_smaller_steps_and_goes_no_further() -> None:
    recipe = replace(recipe_for("staged fast", "Playground", "subject"), warmup=0.0, schedule="constant")

    def distance(steps: int) -> float:
        longer = replace(recipe, steps=steps)
        return sum(longer.pace(step, steps) for step in range(steps))

    assert distance(recipe.reach) == recipe.reach == pytest.approx(distance(4 * recipe.reach))
    assert distance(recipe.reach // 2) == recipe.reach // 2
