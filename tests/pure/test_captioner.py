"""Captions by the model itself: which phrases it is asked about, and which of them are said."""

from collections.abc import Sequence

import pytest
import torch
from concept_loom.personalization.captioner import ALL, FIRST, LEVELS, Captioner, predictions
from concept_loom.personalization.denoiser import Context
from concept_loom.personalization.surroundings import Groups, caption_of, groups_of, prompt_of
from concept_loom.playground.backgrounds import PHRASES
from concept_loom.playground.captions import PLACED, compose_caption
from concept_loom.playground.world import CLASSES, COMPANIONS, Setting
from torch import Tensor

from .toy import ToyDenoiser

GROUPS: Groups = (("in the snow", "on grass", "at sea"), ("on the left", "on the right"))
X0 = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))


class Encoder:
    """A context holds its prompt's number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, text: str, composition=()) -> Context:
        self.texts.append(text)
        return Context(torch.tensor([[[len(self.texts) - 1.0]]]))


class Knowing(ToyDenoiser):
    """Misses the picture by 1, less 0.3 for each of `known` in the prompt, more for each of `wrong`; noise misleads."""

    def __init__(
        self, encoder: Encoder, known: Sequence[str] = (), wrong: Sequence[str] = (), noise: float = 0
    ) -> None:
        super().__init__()
        self.encoder, self.known, self.wrong, self.noise = encoder, known, wrong, noise
        self.asked: list[tuple[str, float, Tensor]] = []

    def add_noise(self, x0, sigma, noise):
        return x0 + sigma.view(-1, 1, 1, 1) * noise

    def loss_weight(self, sigma):
        return sigma**-2  # levels of unequal size

    def predict(self, noised, sigma, contexts, composition=(), observer=None):
        texts = [self.encoder.texts[int(context.tensor)] for context in contexts]
        self.asked += list(zip(texts, sigma.tolist(), noised, strict=True))
        far = [1 - 0.3 * sum(p in t for p in self.known) + 0.3 * sum(p in t for p in self.wrong) for t in texts]
        far = torch.tensor(far) + self.noise * noised.mean((1, 2, 3))
        return X0 + (sigma * far).view(-1, 1, 1, 1)


def said(groups: Groups = GROUPS, batch_size: int = 3, **knows) -> tuple[tuple[str, ...], Knowing]:
    encoder = Encoder()
    denoiser = Knowing(encoder, **knows)
    captioner = Captioner(denoiser, encoder, lambda found: prompt_of(found, "mug", "subject"), batch_size)
    return captioner.phrases(X0, groups), denoiser


def test_what_makes_the_picture_clearer_is_said_one_of_each_group() -> None:
    assert said(known=("on grass", "on the left"))[0] == ("on grass", "on the left")
    assert said(known=("on grass",))[0] == ("on grass",)
    assert said(known=("on the right",))[0] == ("on the right",)


def test_nothing_is_said_where_every_phrase_makes_it_worse_or_none_helps() -> None:
    assert said()[0] == ()
    assert said(wrong=tuple(phrase for group in GROUPS for phrase in group))[0] == ()


def test_a_group_is_asked_beside_what_was_found_before_it() -> None:
    _, denoiser = said(known=("at sea",))
    assert {text for text, *_ in denoiser.asked} == {
        "a photo of mug",
        *(f"a photo of mug {phrase}" for phrase in GROUPS[0]),
        *(f"a photo of mug at sea, {phrase}" for phrase in GROUPS[1]),
        "a photo of mug at sea",
    }


def test_every_phrase_is_seen_under_the_same_noises_and_the_nearest_under_more() -> None:
    _, denoiser = said(GROUPS[:1], known=("at sea",), wrong=("on grass",))
    seen = {text: [(s, n) for t, s, n in denoiser.asked if t == text] for text, *_ in denoiser.asked}
    looks = {text.removeprefix("a photo of mug").strip(): len(found) for text, found in seen.items()}
    levels = len(LEVELS)
    assert looks == {"": ALL * levels, "at sea": ALL * levels, "in the snow": ALL * levels, "on grass": FIRST * levels}
    first, other = seen["a photo of mug"], seen["a photo of mug at sea"]
    assert [s for s, _ in first] == [s for s, _ in other]
    assert all(torch.equal(n, m) for (_, n), (_, m) in zip(first, other, strict=True))
    assert len({n.sum().item() for _, n in first}) == ALL * levels


def test_a_picture_takes_as_many_predictions_as_foretold_in_batches_that_change_nothing() -> None:
    for groups in (GROUPS, (*GROUPS, ("alone",))):
        told: list[int] = []
        encoder = Encoder()
        denoiser = Knowing(encoder, known=("on grass",), noise=0.05)
        asked = Captioner(denoiser, encoder, lambda found: prompt_of(found, "mug", "subject"), 4, told.append)
        found = asked.phrases(X0, groups)
        assert sum(told) == len(denoiser.asked) == predictions(groups) and max(told) == 4
        assert found == said(groups, 1, known=("on grass",), noise=0.05)[0]


def test_who_watches_may_break_it_off() -> None:
    def stop(size: int) -> None:
        raise KeyboardInterrupt

    encoder = Encoder()
    with pytest.raises(KeyboardInterrupt):
        Captioner(Knowing(encoder), encoder, lambda found: "a photo of mug", 4, stop).phrases(X0, GROUPS)


def test_the_playgrounds_phrases_are_its_worlds_words() -> None:
    (places, positions, beside), (things, *others) = (groups_of("", "Playground", role) for role in ("both", "style"))
    assert set(places) == set(PHRASES.values()) and set(positions) == set(PLACED.values())
    for companion in COMPANIONS:
        assert any(compose_caption("x", companion=companion).endswith(f", {phrase}") for phrase in beside)
    assert len(beside) == len(COMPANIONS) and things == tuple(f"a {name}" for name in CLASSES)
    assert tuple(others) == (places, positions, beside)
    found = (PHRASES["snow"], PLACED["left"], beside[0])
    companion = beside[0].split()[-1]
    assert caption_of(found, "subject") == Setting("snow", "left", companion, "photo").caption("{}")


@pytest.mark.parametrize("role", ["subject", "style"])
def test_real_models_have_phrases_that_are_each_said_once(role: str) -> None:
    groups = groups_of("", "SDXL", role)
    every = [phrase for group in groups for phrase in group]
    assert groups == groups_of("", "SD 1.5", role) and len(every) == len(set(every))


def test_a_caption_has_the_concepts_place_and_its_prompt_the_class_instead() -> None:
    found = ("on grass", "next to a dog")
    assert caption_of(found, "subject") == "a photo of {} on grass, next to a dog"
    assert prompt_of(found, "stuffed toy", "both") == "a photo of stuffed toy on grass, next to a dog"
    assert caption_of((), "subject") == "a photo of {}"
    assert prompt_of(found, "", "both") == "a photo on grass, next to a dog" and prompt_of((), "", "both") == "a photo"
    assert caption_of(("a horse", "on grass"), "style") == "a horse, on grass, {}"
    assert prompt_of(("a horse",), "", "style") == "a horse"
    assert prompt_of(("a horse",), "watercolor", "style") == "a horse, watercolor style"
    assert prompt_of((), "", "style") == ""


def test_phrases_are_read_by_line_and_a_line_without_any_is_refused() -> None:
    assert groups_of("on grass | in the  snow\n\n at night|", "SDXL", "style") == (
        ("on grass", "in the snow"),
        ("at night",),
    )
    with pytest.raises(ValueError, match=r"The line '\| \|' holds no phrase; one at least is needed\. Write"):
        groups_of("on grass\n | | ", "SDXL", "subject")
