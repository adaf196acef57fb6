"""What is counted on the host reaches a GPU without waiting for it; PyTorch's fake tensors stand in for one."""

from collections.abc import Mapping
from typing import Any

import torch
from concept_loom.personalization.attractor import Contrast, word_of
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.denoiser import Context, Slots
from concept_loom.personalization.guests import Presence, joint
from concept_loom.personalization.indices import indices, moved
from concept_loom.personalization.regions import WHOLE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import concepts

GPU = torch.device("cuda:0")
ONES = torch.ones(3)


class Copies(TorchDispatchMode):
    """Notes of every copy to a GPU whether the host goes on at once."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and torch.device(kwargs.get("device") or "cpu") == GPU:
            self.at_once.append(bool(kwargs.get("non_blocking")))
        return func(*args, **kwargs)


def present(u: torch.Tensor) -> Presence:
    return Presence(PlacedConcept(concepts.concept()), u, ((1, WHOLE), (2, WHOLE)), ((1, 1), (1, 2), (2, 1), (2, 2)))


def test_what_a_call_counts_is_copied_without_waiting() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        one = present(torch.ones(3, device=GPU))
        made = [indices([[1, 2]], GPU), moved(torch.tensor([0.5]), GPU), one.rows, *one.phrase, *one.sides(())]
    assert {tensor.device for tensor in made} == {GPU}
    assert copies.at_once and all(copies.at_once)


def test_the_contrast_of_a_step_is_copied_without_waiting() -> None:
    slots = [Slots(word, "", {"l": (row,)}, (1.0,)) for row, word in enumerate(("mug", word_of(3)))]
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        contrast = Contrast("mug", [Context(torch.ones(1, 4, 6), tuple(slots))] * 2, GPU)
    assert contrast.columns.device == contrast.own.device == GPU
    assert copies.at_once and all(copies.at_once)


def test_a_copy_that_is_waited_for_is_noticed() -> None:
    with FakeTensorMode(), Copies() as copies:
        torch.tensor([1, 2], device=GPU)
    assert copies.at_once == [False]


def test_the_sides_of_a_batch_are_counted_once_in_a_call() -> None:
    guests = [(present(ONES), torch.ones(2, 8))]
    one, other = (joint(guests, 6, (2, 3), ONES) for _ in range(2))
    assert one.touched is other.touched and one.rest is other.rest
    assert one.touched.tolist() == [1, 2] and one.rest.tolist() == [0]


def test_no_numbers_are_an_empty_index() -> None:
    assert ONES[indices([], ONES.device)].shape == (0,)
