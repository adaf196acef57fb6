"""Learning that was broken off goes on as if it had not been: the same tensors, the same records."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_loom.personalization import unfinished
from concept_loom.personalization.learned import Event, Held, Learned, Preview, Started, Step
from concept_loom.personalization.learner import LearnTask, learn
from concept_loom.personalization.methods import Beginning, start
from concept_loom.personalization.recipe import Recipe, Stage
from concept_loom.personalization.snapshot import Snapshot
from concept_loom.personalization.unfinished import Unfinished, parsed, serialised

from .toy import BASE, ToyDenoiser, ToyPromptEncoder, toy_latents

STAGES = (Stage(("embedding.",), 3e-2, share=1), Stage(("context_rows.",), 3e-2, share=2))
RECIPE = Recipe("quick", STAGES, steps=12, batch_size=4, warmup=0.2, schedule="cosine", weight_decay=0.1, checks=4)
KEY = "k" * 64


class Interrupt(BaseException):
    """As ComfyUI raises it from inside a model."""


def task(recipe: Recipe = RECIPE, held_out: int = 2, **changes: object) -> LearnTask:
    encoder = ToyPromptEncoder()
    concept = start(Beginning(encoder, BASE, recipe, "mug", "mug", "subject"))
    one = LearnTask(ToyDenoiser(), encoder, concept, toy_latents(held_out=held_out), recipe, seed=5)
    return replace(one, **{"interrupts": (Interrupt,), "clock": lambda: 0.0, **changes})


def on_disk(snapshot: Snapshot) -> Snapshot:
    return parsed(serialised(snapshot, KEY), KEY)


def with_snapshots(one: LearnTask) -> tuple[Learned, list[Snapshot]]:
    """The run in one go, and a snapshot before each of its steps where time stands still."""
    kept: list[Snapshot] = []
    return learn(replace(one, keep=kept.append, keep_every=0.0)), kept


def same(one: Learned, other: Learned) -> bool:
    return (one.concept.hash, one.losses, one.held, one.best_step, one.concept.info) == (
        *(other.concept.hash, other.losses, other.held),
        *(other.best_step, other.concept.info),
    )


@pytest.mark.parametrize("held_out", [0, 2])
def test_from_every_step_learning_goes_on_to_bit_identical_tensors(held_out: int) -> None:
    whole, snapshots = with_snapshots(task(held_out=held_out))
    assert [snapshot.step for snapshot in snapshots] == list(range(12))
    for snapshot in snapshots:
        resumed = learn(task(held_out=held_out, snapshot=on_disk(snapshot)))
        assert same(resumed, whole) and resumed.began == snapshot.step


def test_the_steps_of_a_budget_in_seconds_are_not_counted_again() -> None:
    ticks = iter(range(100_000))
    timed = replace(RECIPE, steps=0, seconds=300.0)
    whole, snapshots = with_snapshots(task(timed, clock=lambda: float(next(ticks))))
    assert snapshots[1].steps == whole.steps > snapshots[1].step > 0
    assert same(learn(task(timed, snapshot=on_disk(snapshots[1]))), whole)


@pytest.mark.parametrize("calls", [8, 9, 10, 11, 12, 13, 14])
def test_what_was_cancelled_anywhere_goes_on_to_the_tensors_of_one_go(calls: int) -> None:
    kept: list[Snapshot] = []
    cancelled = learn(task(denoiser=ToyDenoiser(breaks=calls, raises=Interrupt), keep=kept.append))
    assert not cancelled.finished and kept[-1].step == len(cancelled.losses) > 0
    assert same(learn(task(snapshot=on_disk(kept[-1]))), learn(task()))


@pytest.mark.parametrize("kind", [Step, Held, Preview])
def test_what_was_cancelled_while_it_was_shown_goes_on_to_the_tensors_of_one_go(
    kind: type[Step | Held | Preview],
) -> None:
    kept: list[Snapshot] = []

    def cancel(event: Event) -> None:
        if isinstance(event, kind) and not isinstance(event, Started) and event.step >= 3:
            raise Interrupt

    learn(task(keep=kept.append, previews=4), cancel)
    assert same(learn(task(snapshot=kept[-1])), learn(task()))


def test_snapshots_take_no_more_than_their_share_of_the_time() -> None:
    now, kept = [0.0], []

    def slow(snapshot: Snapshot) -> None:
        kept.append(snapshot)
        now[0] += 1.0

    def tick(event: object) -> None:
        now[0] += 1.0 if isinstance(event, Step) else 0.0

    learn(task(replace(RECIPE, steps=200), clock=lambda: now[0], keep=slow, keep_every=2.0), tick)
    assert [snapshot.step for snapshot in kept] == [2, 52, 102, 152]


@pytest.fixture
def snapshot() -> Snapshot:
    return with_snapshots(task())[1][5]


def found(place: Unfinished) -> Snapshot | None:
    return place.found(task().start, RECIPE)


def test_a_kept_snapshot_is_found_under_its_key_and_gone_when_forgotten(tmp_path: Path, snapshot: Snapshot) -> None:
    place = Unfinished(tmp_path, KEY)
    place.keep(snapshot)
    again = found(place)
    assert again is not None and again.step == 5 and again.tensors.keys() == snapshot.tensors.keys()
    assert all(torch.equal(tensor, snapshot.tensors[name]) for name, tensor in again.tensors.items())
    assert found(Unfinished(tmp_path, "other")) is None
    place.forget()
    assert not list(tmp_path.iterdir())


def test_no_loader_lists_a_snapshot(tmp_path: Path, snapshot: Snapshot) -> None:
    Unfinished(tmp_path, KEY).keep(snapshot)
    (file,) = (one for one in tmp_path.rglob("*") if one.is_file())
    assert file.suffix != ".safetensors" and file.parent.name.startswith(".")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_key(path: Path) -> None:
    path.write_bytes(serialised(parsed(path.read_bytes(), KEY), "other"))


def of_other_slots(path: Path) -> None:
    one = parsed(path.read_bytes(), KEY)
    path.write_bytes(
        serialised(one._replace(tensors={**one.tensors, "parameter.embedding.l": torch.zeros(2, 10)}), KEY)
    )


@pytest.mark.parametrize("spoil", [cut, flipped, empty, of_another_key, of_other_slots])
def test_a_damaged_or_foreign_snapshot_is_passed_over_and_said(
    tmp_path: Path, snapshot: Snapshot, caplog: pytest.LogCaptureFixture, spoil
) -> None:
    place = Unfinished(tmp_path, KEY)
    place.keep(snapshot)
    spoil(place.path)
    with caplog.at_level(logging.WARNING):
        assert found(place) is None
    assert "is passed over" in caplog.text


def test_a_snapshot_that_cannot_be_written_is_said_and_ends_nothing(
    tmp_path: Path, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / unfinished.FOLDER).write_bytes(b"in the way")
    Unfinished(tmp_path, KEY).keep(snapshot)
    assert "No snapshot could be written" in caplog.text


def test_only_old_leftovers_are_swept_away(tmp_path: Path, snapshot: Snapshot) -> None:
    old, new = Unfinished(tmp_path, "old"), Unfinished(tmp_path, "new")
    old.keep(snapshot)
    new.keep(snapshot)
    half = old.path.with_name(".half.unfinished")
    half.write_bytes(b"")
    for file in (old.path, half):
        os.utime(file, (0, 0))
    new.sweep()
    assert [file.name for file in old.path.parent.iterdir()] == [new.path.name]
