"""What a bench learned is found again by all that it was learned from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_loom.benchmarks.core_lora import Lesson, Lora
from concept_loom.benchmarks.kept import Kept
from concept_loom.benchmarks.made import learned, timed
from concept_loom.benchmarks.wind_tunnel import Case, Tunnel, cases
from concept_loom.playground.model import load
from concept_loom.tests.scratch_weights import write_scratch_weights

RECIPE = replace(timed("quick", 1.0), steps=2, batch_size=2)


@pytest.fixture
def tunnel(tmp_path: Path) -> Tunnel:
    write_scratch_weights(tmp_path)
    return Tunnel(load(tmp_path), None, kept=Kept(tmp_path / "learned"))  # type: ignore[arg-type] - nothing is judged


@pytest.fixture(scope="module")
def case() -> Case:
    return cases(1, 5)[0]


def files(tunnel: Tunnel) -> set[Path]:
    assert tunnel.kept.folder
    return set(tunnel.kept.folder.glob("*.safetensors"))


def test_a_concept_is_learned_once_and_taken_with_its_seconds(tunnel: Tunnel, case: Case) -> None:
    first, second = (learned(RECIPE, tunnel, case.dataset(), ("it", "mug", "subject"), 1) for _ in range(2))
    assert first[1] == second[1] and first[1].steps == 2
    for name, tensor in first[0].tensors().items():
        assert torch.equal(second[0].tensors()[name], tensor)
    assert len(files(tunnel)) == 1


def test_another_recipe_seed_word_or_picture_is_learned_anew(tunnel: Tunnel, case: Case) -> None:
    words, pictures = ("it", "mug", "subject"), case.dataset()
    other = replace(case, training=255 - case.training).dataset()
    for asked in (
        (RECIPE, pictures, words, 1),
        (replace(RECIPE, steps=1), pictures, words, 1),
        (RECIPE, pictures, words, 2),
        (RECIPE, pictures, ("it", "bag", "subject"), 1),
        (RECIPE, other, words, 1),
    ):
        before = files(tunnel)
        recipe, *rest = asked
        learned(recipe, tunnel, *rest)
        assert len(files(tunnel) - before) == 1


def test_the_peer_is_kept_too(tunnel: Tunnel, case: Case) -> None:
    lesson = Lesson(case.training[:1], ("a photo of sks mug",), 1)
    first, second = (Lora(1e-3, 1.0, 0.01).trained(tunnel, lesson) for _ in range(2))
    assert first.took == second.took and len(files(tunnel)) == 1
    for name, tensor in first.weights.items():
        assert torch.equal(second.weights[name], tensor)
