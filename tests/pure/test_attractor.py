"""The attractor's contrast over what a site saw: which samples count, and when there is nothing to tell apart."""

import pytest
import torch
from concept_loom.personalization.attractor import Contrast, word_of
from concept_loom.personalization.denoiser import Context, Observation, Slots
from concept_loom.personalization.objectives import subject_contrast
from concept_loom.personalization.sites import Site
from torch import Tensor

SITE = Site("input", 1, 0)
HIDDEN, ATTENTION = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1)), torch.rand(4, 2, 6, 2)


def contrast_of(pictures: list[int | None]) -> Contrast:
    """Samples that say [V], and after it the attractor of their picture where they have one."""

    def context(picture: int | None) -> Context:
        words = ["mug"] if picture is None else ["mug", word_of(picture)]
        return Context(
            torch.ones(1, 4, 6), tuple(Slots(word, "", {"l": (row,)}, (1.0,)) for row, word in enumerate(words))
        )

    return Contrast("mug", [context(picture) for picture in pictures], torch.device("cpu"))


def loss_of(pictures: list[int | None], hidden: Tensor = HIDDEN) -> Tensor:
    contrast = contrast_of(pictures)
    contrast.observer.see(SITE, Observation(hidden, ATTENTION))
    return contrast.loss()


def test_a_site_that_is_computed_again_in_the_backward_pass_is_not_kept_again() -> None:
    contrast = contrast_of([5, None, 2, 5])
    contrast.observer.see(SITE, Observation(HIDDEN, ATTENTION))
    before = contrast.loss()
    contrast.observer.see(SITE, Observation(HIDDEN.flip(1), ATTENTION))
    assert torch.equal(contrast.loss(), before)


def test_samples_without_their_attractor_count_for_nothing() -> None:
    pools = [
        torch.stack([(share / share.sum()) @ hidden for share in maps.mean(0).T])
        for maps, hidden in zip(ATTENTION, HIDDEN, strict=True)
    ]
    subject, scenery = torch.stack([pools[0], pools[2], pools[3]]).unbind(1)
    expected = subject_contrast(subject, scenery, torch.tensor([5, 2, 5]))
    torch.testing.assert_close(loss_of([5, None, 2, 5]), expected)


@pytest.mark.parametrize("pictures", [[None] * 4, [3, None, None, None], [3, 3, 3, None]])
def test_without_two_pictures_there_is_nothing_to_contrast(pictures: list[int | None]) -> None:
    hidden = HIDDEN.clone().requires_grad_()
    assert float(loss_of(pictures, hidden)) == 0
    (hidden.sum() + loss_of(pictures, hidden)).backward()
    assert hidden.grad is not None and torch.equal(hidden.grad, torch.ones_like(hidden))
