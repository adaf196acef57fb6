"""From pictures to a file, on the playground's classes with random weights."""

import errno
import gc
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import comfy.model_management as host
import comfy.utils as host_utils
import pytest
import torch
from comfy import supported_models
from comfy.model_patcher import ModelPatcher
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.nodes.progress import PREVIEW_SHARE, LearningProgress
from concept_loom.personalization import learner, training_pass
from concept_loom.personalization.batch import draw
from concept_loom.personalization.checkpoint import load
from concept_loom.personalization.comfyui import lesson as lesson_module
from concept_loom.personalization.comfyui import painter
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.lesson import Lesson, teach
from concept_loom.personalization.comfyui.memory import Offload, Room, Way
from concept_loom.personalization.comfyui.trial import is_learned_from
from concept_loom.personalization.comfyui.weights import Weights
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.contact_sheet import contact_sheet
from concept_loom.personalization.dataset import ConceptDataset, dataset_of
from concept_loom.personalization.doctor import examine
from concept_loom.personalization.evaluation import held_out_losses
from concept_loom.personalization.latents import TrainingLatents
from concept_loom.personalization.learned import Event, Held, LearningDiverged, Masked, Planned, Preview, Started, Step
from concept_loom.personalization.learner import LearnTask
from concept_loom.personalization.library import file_name, free_path
from concept_loom.personalization.objectives import denoising_loss
from concept_loom.personalization.pictures import read_pictures
from concept_loom.personalization.thumbnail import jpeg_of, picture_from
from concept_loom.personalization.unfinished import FOLDER
from concept_loom.personalization.wish import Wish, recipe_of
from concept_loom.playground import model as playground
from concept_loom.tests.scratch_weights import write_scratch_weights

from . import tiny
from .neighbours import sampling

WISH = Wish("mug", "mug", "subject", "quick", "fast", steps=3, batch_size=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_scratch_weights(folder)
    return folder


@pytest.fixture
def canvas(weights: Path) -> Canvas:
    return canvas_of(weights)


NOT_YET: Any = None  # whoever asks it for anything gets an AttributeError


def canvas_of(weights: Path) -> Canvas:
    with torch.inference_mode():
        return Canvas(*playground.load(weights)[:3])


@pytest.fixture(scope="module")
def pictures() -> ConceptDataset:
    with torch.inference_mode():
        return dataset_of(*read_pictures(EXAMPLE_PICTURES)[:1], 1).uncaptioned


def taught(canvas: Canvas, pictures: ConceptDataset, folder: Path, wish: Wish = WISH, show=None) -> tuple[Lesson, list]:
    seen: list[Event] = []
    with torch.inference_mode():
        lesson = teach(canvas, pictures, wish, [folder], show or (lambda event, picture_of: seen.append(event)))
    return lesson, seen


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_learned(canvas, pictures, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    seen: list[Event] = []
    with pytest.raises(ValueError, match=r"Nothing can be written to .*concepts: .*\. What is learned needs a place"):
        taught(canvas, pictures, tmp_path / "file" / "concepts", show=lambda event, picture_of: seen.append(event))
    assert not seen


def test_what_is_learned_is_on_disk_and_equal_to_what_is_returned(canvas, pictures, tmp_path) -> None:
    lesson, seen = taught(canvas, pictures, tmp_path)
    stored = load(lesson.path)
    assert stored.hash == lesson.concept.hash and stored.info.key and len(stored.info.losses) == 3
    assert sum(isinstance(event, Step) for event in seen) == 3
    assert lesson.picture.shape == (1, 64, 64, 3) and lesson.picture.std() > 0
    assert [file.name for file in tmp_path.iterdir()] == ["mug.safetensors"]


@pytest.mark.parametrize("roomy", [True, False])
def test_where_memory_is_short_for_the_vae_pictures_on_the_way_are_rough_and_it_is_said(
    roomy, canvas, pictures, tmp_path, monkeypatch
) -> None:
    decode, decoded, shown = Canvas.decode, [], []
    monkeypatch.setattr(Canvas, "has_room_to_decode", lambda self, shape: roomy)
    monkeypatch.setattr(Canvas, "decode", lambda self, latents: (decoded.append(latents), decode(self, latents))[1])

    def show(event: Event, picture_of: Callable[[Any], torch.Tensor]) -> None:
        if isinstance(event, Preview):
            shown.append(picture_of(event.concept))
            assert bool(decoded) is roomy

    lesson, _ = taught(canvas, pictures, tmp_path, show=show)
    assert shown and all(one.shape == (1, 64, 192, 3) and 0 <= one.min() < one.max() <= 1 for one in shown)
    assert any("memory was too short to load the VAE as well" in one for one in lesson.sentences) is not roomy


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"placeholder": "<cup>"}, False),
        ({}, False),
        ({"seed": 1}, True),
        ({"class_word": "cup"}, True),
        ({"role": "style"}, True),
        ({"method": "textual inversion"}, True),
        ({"steps": 4}, True),
        ({"learning_rate": 1e-3}, True),
    ],
)
def test_only_what_decides_the_tensors_learns_again(canvas, pictures, tmp_path, changes: dict, again: bool) -> None:
    taught(canvas, pictures, tmp_path)
    lesson, seen = taught(canvas, pictures, tmp_path, replace(WISH, **changes))
    assert bool(seen) == again
    assert lesson.word == ("cup" if "placeholder" in changes else "mug")
    assert lesson.concept.info.losses


def test_a_damaged_file_is_passed_over_and_learned_again(canvas, pictures, tmp_path) -> None:
    first, _ = taught(canvas, pictures, tmp_path)
    content = bytearray(first.path.read_bytes())
    content[-1] ^= 0x3F
    first.path.write_bytes(content)
    again, seen = taught(canvas, pictures, tmp_path)
    assert seen and again.path != first.path and again.concept.hash == first.concept.hash


def test_another_patch_on_the_model_learns_again(canvas, pictures, tmp_path) -> None:
    taught(canvas, pictures, tmp_path)
    model = canvas.model.clone()
    key = next(key for key in model.model.state_dict() if key.endswith("attn2.to_k.weight"))
    weight = model.model.state_dict()[key]
    model.add_patches({key: ("diff", (torch.ones_like(weight),))}, 0.5)
    assert taught(canvas._replace(model=model), pictures, tmp_path)[1]


def test_another_prediction_learns_again(canvas, pictures, tmp_path) -> None:
    taught(canvas, pictures, tmp_path)
    model = sampling("eps")(canvas.model)
    assert taught(canvas._replace(model=model), pictures, tmp_path)[1]
    assert not taught(canvas._replace(model=sampling("eps")(canvas.model)), pictures, tmp_path)[1]


def patched(canvas: Canvas, scale: float) -> Canvas:
    """With a patch such as FreeU's: learning runs through it."""
    thing = object()  # whose address is another in every session

    def patch(h: torch.Tensor, skip: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
        return h * scale if thing else h, skip

    model = canvas.model.clone()
    model.set_model_output_block_patch(patch)
    return canvas._replace(model=model)


def test_another_packs_patch_and_its_settings_learn_again(canvas, pictures, tmp_path) -> None:
    taught(canvas, pictures, tmp_path)
    assert taught(patched(canvas, 1.1), pictures, tmp_path)[1]
    assert not taught(patched(canvas, 1.1), pictures, tmp_path)[1]
    assert taught(patched(canvas, 1.2), pictures, tmp_path)[1]


def test_another_packs_patch_draws_the_class_anew(canvas, pictures, tmp_path) -> None:
    wish = replace(WISH, method="layerwise", settings="class_pictures=1")
    for one in (canvas, patched(canvas, 1.1), patched(canvas, 1.1), patched(canvas, 1.2)):
        taught(one, pictures, tmp_path, wish)
    kept = [file.read_bytes() for file in (tmp_path / lesson_module.CLASS_PICTURES).rglob("*.latents")]
    assert len(set(kept)) == 3


def test_weights_that_are_packed_are_refused_before_anything_runs(canvas, pictures, tmp_path) -> None:
    """As GGUF packs have them: bytes that are unpacked in every call."""
    layer = canvas.model.model.diffusion_model.get_submodule("time_embed.0")
    layer.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match="packed as uint8, as those of GGUF"):
        taught(canvas._replace(vae=NOT_YET), pictures, tmp_path)


def test_another_family_is_refused_by_its_name_before_anything_runs(canvas, pictures, tmp_path) -> None:
    config = object.__new__(supported_models.SDXLRefiner)
    vars(config).update(vars(canvas.model.model.model_config))
    canvas.model.model.model_config = config
    with pytest.raises(ValueError, match="This model is a SDXLRefiner"):
        taught(canvas._replace(vae=NOT_YET, clip=NOT_YET), pictures, tmp_path)


def test_learning_leaves_every_base_weight_as_it_was(canvas, pictures, tmp_path) -> None:
    networks = (canvas.model.model, canvas.clip.cond_stage_model, canvas.vae.first_stage_model)
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in networks]
    taught(canvas, pictures, tmp_path)
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in network.state_dict().items())


def test_nan_at_once_ends_in_a_sentence_and_leaves_no_file(canvas, pictures, tmp_path) -> None:
    with pytest.raises(LearningDiverged, match="NaN or infinity at step 2.*nothing was saved"):
        taught(canvas, pictures, tmp_path, replace(WISH, learning_rate=1e30))
    assert not list(tmp_path.iterdir())


def test_nan_later_leaves_the_last_good_state_as_a_cancel_does(canvas, pictures, tmp_path, monkeypatch) -> None:
    losses = []

    def breaking(*args: torch.Tensor) -> torch.Tensor:
        losses.append(args)
        return denoising_loss(*args) * (float("nan") if len(losses) > 12 else 1)

    monkeypatch.setattr(training_pass, "denoising_loss", breaking)
    with pytest.raises(LearningDiverged, match=r"The state of step (\d+) is saved as mug \(stopped at step \1\)"):
        taught(canvas, pictures, tmp_path, replace(WISH, steps=20))
    (file,) = tmp_path.glob("*.safetensors")
    kept = load(file)
    assert not kept.info.key and 0 < kept.info.steps < 12 and kept.info.note.startswith("Stopped early")
    assert all(tensor.isfinite().all() for tensor in kept.tensors().values())
    assert not list((tmp_path / FOLDER).glob("*")), "it would only diverge again"


def test_cancelling_keeps_a_file_that_is_not_taken_for_a_finished_one(canvas, pictures, tmp_path) -> None:
    def cancel(event: Event, picture_of) -> None:
        if isinstance(event, Step) and event.step == 2:
            host.interrupt_current_processing()

    lesson, _ = taught(canvas, pictures, tmp_path, show=cancel)
    assert lesson.path.stem.startswith("mug (stopped at step ")
    stopped = load(lesson.path).info
    assert stopped.key == "" and stopped.note == f"Stopped early: the state of step {stopped.steps} of 3."
    again, seen = taught(canvas, pictures, tmp_path)
    assert seen and again.path.name == "mug.safetensors" and not load(again.path).info.note


def after(step: int, shown: list[Event] | None = None) -> Callable:
    """A click on Cancel as soon as this step is done."""

    def cancel(event: Event, picture_of) -> None:
        if shown is not None:
            shown.append(event)
        if isinstance(event, Step) and event.step == step:
            host.interrupt_current_processing()

    return cancel


def leftovers(folder: Path) -> list[Path]:
    return list((folder / FOLDER).glob("*"))


def test_a_cancelled_lesson_goes_on_to_the_tensors_of_one_go(canvas, pictures, tmp_path) -> None:
    whole, _ = taught(canvas, pictures, tmp_path / "whole")
    shown: list[Event] = []
    cancelled, _ = taught(canvas, pictures, tmp_path / "parts", show=after(1))
    assert not cancelled.finished and len(leftovers(tmp_path / "parts")) == 1
    resumed, _ = taught(canvas, pictures, tmp_path / "parts", show=after(0, shown))
    assert resumed.finished and resumed.concept.hash == whole.concept.hash
    assert [event.step for event in shown if isinstance(event, Step)] == [2, 3]
    assert resumed.sentences[0] == "Went on from step 1."
    assert not leftovers(tmp_path / "parts")


def test_cancelling_while_pictures_are_encoded_ends_the_prompt(canvas, pictures, tmp_path) -> None:
    host.interrupt_current_processing()
    with pytest.raises(host.InterruptProcessingException):
        taught(canvas, pictures, tmp_path)
    assert not list(tmp_path.iterdir())


def test_cancelling_while_a_budget_is_timed_ends_the_prompt(canvas, pictures, tmp_path, monkeypatch) -> None:
    draws = []

    def cancelling(*args: object) -> object:
        draws.append(host.interrupt_current_processing())
        return draw(*args)

    monkeypatch.setattr(learner, "draw", cancelling)
    with pytest.raises(host.InterruptProcessingException):
        taught(canvas, pictures, tmp_path, replace(WISH, steps=0))
    assert len(draws) == 1 and not list(tmp_path.iterdir())


def test_cancelling_while_a_preview_is_drawn_keeps_the_best(canvas, pictures, tmp_path) -> None:
    def cancel(event: Event, picture_of) -> None:
        if isinstance(event, Preview) and event.step == 2:
            host.interrupt_current_processing()
            picture_of(event.concept)

    lesson, _ = taught(canvas, pictures, tmp_path, show=cancel)
    assert lesson.path.exists() and len(lesson.concept.info.losses) == 2 and not lesson.finished


def test_probes_show_the_word_in_three_prompts_and_the_first_is_the_thumbnail(canvas, pictures, tmp_path) -> None:
    drawn: list[torch.Tensor] = []

    def show(event: Event, picture_of) -> None:
        if isinstance(event, Preview):
            drawn.append(picture_of(event.concept))

    lesson, _ = taught(canvas, pictures, tmp_path, show=show)
    side = lesson.picture.shape[1]
    assert {tuple(one.shape) for one in drawn} == {(1, side, 3 * side, 3)}
    parts = drawn[-1].split(side, 2)
    assert torch.equal(picture_from(jpeg_of(parts[0])), lesson.picture)
    assert not any(torch.equal(one, other) for one, other in pairwise(parts))


def test_cancelling_inside_a_held_out_check_keeps_the_best(canvas, pictures, tmp_path, monkeypatch) -> None:
    looks = []

    def cancelling(*args: object) -> torch.Tensor:
        looks.append(args)
        host.interrupt_current_processing(len(looks) == 2)
        return held_out_losses(*args)

    monkeypatch.setattr(learner, "held_out_losses", cancelling)
    monkeypatch.setattr(learner, "LAST_LOOK", float("inf"))  # however slow this machine is
    lesson, seen = taught(canvas, pictures, tmp_path, replace(WISH, steps=20))
    taken = len(lesson.concept.info.losses)
    assert lesson.path.exists() and 0 < taken < 20 and not lesson.finished
    assert [event.step for event in seen if isinstance(event, Held)] == [0, taken]


def test_cancelling_in_the_backward_pass_of_a_large_model_keeps_the_best(canvas, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Room, "has", lambda room, way: way.checkpoint)
    losses = []

    def cancelling(*args: object) -> torch.Tensor:
        losses.append(args)
        if len(losses) == 8:  # the first was only to foretell the memory
            host.interrupt_current_processing()  # the next thing that runs is the backward pass
        return denoising_loss(*args)

    monkeypatch.setattr(training_pass, "denoising_loss", cancelling)
    lesson, _ = taught(canvas, pictures, tmp_path, replace(WISH, steps=20))
    assert len(losses) == 8 and lesson.path.exists() and len(lesson.concept.info.losses) == 6


def test_a_full_disk_at_the_last_save_costs_what_came_after_the_last_snapshot(canvas, pictures, tmp_path, monkeypatch):
    """The sentence of failure.py promises it."""

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def with_snapshots(*args: object) -> LearnTask:
        return replace(task(*args), keep_every=0.0)

    whole, _ = taught(canvas, pictures, tmp_path / "whole")
    task = lesson_module._task
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(lesson_module, "save", full)
        patch.setattr(lesson_module, "_task", with_snapshots)
        patch.setattr(learner, "SNAPSHOT_SHARE", float("inf"))  # before every step, however slow this disk is
        taught(canvas, pictures, tmp_path / "full")
    again, seen = taught(canvas, pictures, tmp_path / "full")
    assert [event.step for event in seen if isinstance(event, Step)] == [3]
    assert again.concept.hash == whole.concept.hash and not leftovers(tmp_path / "full")


@pytest.mark.parametrize("moment", ["preview", "decode", "save"])
def test_a_click_after_the_last_step_loses_nothing(canvas, pictures, tmp_path, monkeypatch, moment: str) -> None:
    def clicked(work: Callable) -> Callable:
        return lambda *args, **kwargs: (host.interrupt_current_processing(), work(*args, **kwargs))[1]

    owner, name = {
        "preview": (painter, "preview"),
        "decode": (Canvas, "decode"),
        "save": (lesson_module, "save"),
    }[moment]
    monkeypatch.setattr(owner, name, clicked(getattr(owner, name)))
    lesson, _ = taught(canvas, pictures, tmp_path)
    host.interrupt_current_processing(False)
    assert lesson.finished and load(lesson.path).info.key and not leftovers(tmp_path)


def test_the_picture_of_a_cancelled_concept_is_given_up_where_it_takes_long(canvas, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(painter, "PATIENCE", -1.0)
    cancelled, _ = taught(canvas, pictures, tmp_path / "cancelled", show=after(1))
    assert load(cancelled.path).thumbnail == b""
    whole, _ = taught(canvas, pictures, tmp_path / "whole")
    assert load(whole.path).thumbnail


def test_memory_that_runs_out_in_the_last_picture_costs_the_picture_alone(canvas, pictures, tmp_path, monkeypatch):
    def too_large(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter, "preview", too_large)
    lesson, _ = taught(canvas, pictures, tmp_path)
    assert lesson.finished and load(lesson.path).info.key and not leftovers(tmp_path)


def test_memory_is_back_after_a_cancel(canvas, pictures, tmp_path) -> None:
    def held() -> int:
        gc.collect()
        return sum(one.numel() for one in gc.get_objects() if issubclass(type(one), torch.Tensor))

    taught(canvas, pictures, tmp_path, replace(WISH, seed=1), after(1))
    before = held()
    taught(canvas, pictures, tmp_path, replace(WISH, seed=2), after(1))
    assert held() - before < 100_000  # values; the playground's MODEL alone has millions
    assert not host.in_training


SPARABLE = replace(WISH, method="nested")  # at every site; what quick's four keep is no more than a block's weights


def out_of_memory_at(step: int, times: int, seen: list[Event]):
    """Memory runs out at that step, so many times."""
    left = [times]

    def show(event: Event, picture_of) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.step == step and left[0]:
            left[0] -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    return show


@pytest.mark.parametrize(
    ("batch_size", "said"), [(2, "2 pictures per step.*Set batch_size .* to 1"), (1, "Close what else uses the device")]
)
def test_too_little_memory_ends_in_a_sentence_and_leaves_no_file(canvas, pictures, tmp_path, batch_size, said) -> None:
    seen: list[Event] = []
    with pytest.raises(MemoryError, match=said) as raised:
        taught(canvas, pictures, tmp_path, replace(SPARABLE, batch_size=batch_size), out_of_memory_at(1, 9, seen))
    assert re.search(r"\d GB were foreseen and \d+\.\d GB were free; it needs more\.", str(raised.value))
    assert sum(isinstance(event, Step) for event in seen) == 2
    assert not list(tmp_path.iterdir())


def test_where_memory_runs_out_once_it_goes_on_more_sparingly_and_says_so(canvas, pictures, tmp_path) -> None:
    plain, _ = taught(canvas, pictures, tmp_path / "plain", SPARABLE)
    seen: list[Event] = []
    spared, _ = taught(canvas, pictures, tmp_path / "spared", SPARABLE, out_of_memory_at(2, 1, seen))
    assert spared.finished and spared.concept.info.steps == 3
    assert any("Memory ran out, so it went on more sparingly" in sentence for sentence in spared.sentences)
    for name, tensor in plain.concept.tensors().items():
        torch.testing.assert_close(spared.concept.tensors()[name], tensor)


def test_what_it_needs_of_the_memory_is_said_before_the_first_step(canvas, pictures, tmp_path) -> None:
    lesson, seen = taught(canvas, pictures, tmp_path)
    planned = next(event for event in seen if isinstance(event, Planned))
    assert re.fullmatch(r"Learning in fp32 needs \d+\.\d GB of \d+\.\d GB free\.", planned.sentence)
    assert seen.index(planned) < next(number for number, event in enumerate(seen) if isinstance(event, Step))
    assert planned.sentence in lesson.sentences


def test_pictures_that_are_too_small_are_told_before_the_first_step(canvas, pictures, tmp_path) -> None:
    small = dataset_of([replace(one, pixels=one.pixels[::8, ::8], mask=None) for one in pictures.pictures], 1)
    lesson, seen = taught(canvas, small, tmp_path)
    (finding,) = (finding.sentence for finding in examine(small, 64) if finding.kind == "tiny")
    planned = next(event for event in seen if isinstance(event, Planned))
    assert planned.sentence.endswith(finding) and finding in lesson.sentences


def test_scarce_memory_takes_fewer_pictures_per_step_and_says_so(canvas, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Room, "has", lambda room, way: way == Way(True, 1))
    lesson, _ = taught(canvas, pictures, tmp_path)
    assert lesson.concept.info.recipe["batch_size"] == 1
    assert any("1 instead of 2 pictures per step" in sentence for sentence in lesson.sentences)
    again, seen = taught(canvas, pictures, tmp_path)
    assert not seen and "Learned with 1 instead of 2 pictures per step for memory." in again.sentences


def test_a_large_model_learns_the_same_in_less_memory(canvas, pictures, tmp_path, monkeypatch) -> None:
    plain, _ = taught(canvas, pictures, tmp_path / "plain")
    monkeypatch.setattr(Room, "has", lambda room, way: way.checkpoint)
    sparing, _ = taught(canvas, pictures, tmp_path / "sparing")
    assert any("computed twice" in sentence for sentence in sparing.sentences)
    for name, tensor in plain.concept.tensors().items():
        torch.testing.assert_close(sparing.concept.tensors()[name], tensor)


def test_a_model_that_has_no_room_waits_in_main_memory_and_learns_the_same(
    canvas, pictures, tmp_path, monkeypatch
) -> None:
    plain, _ = taught(canvas, pictures, tmp_path / "plain")
    assert not waiting(canvas.model)
    monkeypatch.setattr(Weights, "movable", Weights.size)  # as beside a GPU
    monkeypatch.setattr(Room, "has", lambda room, way: way.offload is Offload.ALL)
    sparing, _ = taught(canvas, pictures, tmp_path / "sparing")
    assert waiting(canvas.model) and any("wait in main memory" in sentence for sentence in sparing.sentences)
    for name, tensor in plain.concept.tensors().items():
        torch.testing.assert_close(sparing.concept.tensors()[name], tensor)


def waiting(model: ModelPatcher) -> bool:
    return any(hasattr(module, "prev_comfy_cast_weights") for module in model.model.modules())


@pytest.mark.parametrize(("part", "said"), [("vae", "latents of 4 channels"), ("clip", "text encoders")])
def test_parts_of_another_checkpoint_are_refused(canvas, pictures, tmp_path, part: str, said: str) -> None:
    class Other:
        latent_channels = 4

    other = Other() if part == "vae" else tiny.clip()
    with pytest.raises(ValueError, match=said):
        taught(canvas._replace(**{part: other}), pictures, tmp_path)


@pytest.mark.parametrize("placeholder", ["", "two words", "<>", "a<b"])
def test_a_placeholder_that_no_prompt_can_hold_is_refused(canvas, pictures, tmp_path, placeholder: str) -> None:
    with pytest.raises(ValueError, match="one word without spaces"):
        taught(canvas, pictures, tmp_path, replace(WISH, placeholder=placeholder))


@pytest.mark.parametrize(
    ("word", "name"), [("../up", "_up"), ("a/b:c", "a_b_c"), ("\u7d05", "\u7d05"), ("...", "concept")]
)
def test_the_file_of_any_word_stays_in_its_folder(tmp_path, word: str, name: str) -> None:
    assert free_path(tmp_path, file_name(word)) == tmp_path / f"{name}.safetensors"


def test_pictures_that_the_attractor_cannot_contrast_are_told() -> None:
    shapes = [(4, 8, 8), (4, 8, 8), (4, 8, 16), (4, 16, 8)]
    latents = TrainingLatents(tuple(map(torch.zeros, shapes)), (), ("",) * 4)
    attracted = recipe_of(replace(WISH, attractor=True), "SD 1.5", 4)
    assert lesson_module._alone(attracted, latents).startswith("2 of 4 pictures have a shape of their own")
    assert not lesson_module._alone(recipe_of(WISH, "SD 1.5", 4), latents)
    assert not lesson_module._alone(attracted, replace(latents, train=latents.train[:2]))


@pytest.mark.parametrize(("settings", "said"), [("keeps_best=true, patience=4", True), ("keeps_best=true", False)])
def test_patience_that_has_no_two_pictures_to_wait_for_is_told(settings, said, canvas, pictures, tmp_path) -> None:
    lesson, _ = taught(canvas, pictures, tmp_path, replace(WISH, method="staged fast", settings=settings))
    assert ("patience=4 did nothing: 1 of the pictures" in " ".join(lesson.sentences)) is said


def test_captions_that_the_method_does_not_read_are_told(canvas, pictures, tmp_path) -> None:
    told = dataset_of([replace(picture, caption="a cup") for picture in pictures.pictures], 1)
    staged = replace(WISH, method="staged fast")
    deaf = replace(staged, settings="captions=false")
    for wish, captioned, said in ((deaf, told, True), (deaf, pictures, False), (staged, told, False)):
        lesson, _ = taught(canvas, captioned, tmp_path, wish)
        assert ("captions were not read" in " ".join(lesson.sentences)) == said


def test_captions_that_would_help_and_are_missing_are_told(canvas, pictures, tmp_path) -> None:
    all_of_them = dataset_of([replace(picture, caption="a cup") for picture in pictures.pictures], 1)
    one = dataset_of([replace(all_of_them.pictures[0], pixels=pictures.pictures[0].pixels), *pictures.pictures[1:]], 1)
    staged = replace(WISH, method="staged fast")
    style = replace(staged, role="style")
    for wish, dataset, count in (
        (staged, pictures, "None of 5 pictures has"),
        (staged, one, "1 of 5 pictures has"),
        (staged, all_of_them, ""),
        (style, pictures, ""),
        (WISH, pictures, ""),
    ):
        lesson, _ = taught(canvas, dataset, tmp_path, wish)
        found = [sentence for sentence in lesson.sentences if "Put Caption Pictures between" in sentence]
        assert len(found) == bool(count) and (not count or found[0].startswith(count))


def test_captions_learn_again_only_where_they_are_read(canvas, pictures, tmp_path) -> None:
    told = dataset_of([replace(picture, caption="a cup") for picture in pictures.pictures], 1)
    for settings, again in (("captions=false", False), ("", True)):
        wish = replace(WISH, method="staged fast", settings=settings)
        (first, _), (second, _) = (taught(canvas, shown, tmp_path, wish) for shown in (pictures, told))
        assert (first.path != second.path) == again
        assert all(is_learned_from(PlacedConcept(first.concept), shown) for shown in (pictures, told))


@pytest.mark.parametrize("sites", ["sites=outptu.4.*", "sites=middle.*|outptu.4.*"])
def test_a_name_that_is_no_sites_is_refused_before_anything_is_learned(canvas, pictures, tmp_path, sites: str) -> None:
    with pytest.raises(
        ValueError, match=r"name outptu\.4\.\*, which this model does not have; Playground has .*Name some of these"
    ):
        taught(canvas, pictures, tmp_path, replace(WISH, settings=sites))


def test_soft_masks_are_shown_where_they_were_made_and_learn_something_else(canvas, pictures, tmp_path) -> None:
    plain, _ = taught(canvas, pictures, tmp_path)
    soft, seen = taught(canvas, pictures, tmp_path, replace(WISH, soft_masks=True))
    assert plain.masked is None and soft.concept.hash != plain.concept.hash
    whole = contact_sheet(pictures)
    assert soft.masked is not None and soft.masked.shape == whole.shape and not torch.equal(soft.masked, whole)
    shown = [number for number, event in enumerate(seen) if isinstance(event, Masked)]
    assert len(shown) == 1 and not any(isinstance(event, Step) for event in seen[: shown[0]])
    again, _ = taught(canvas, pictures, tmp_path, replace(WISH, soft_masks=True))
    assert again.concept.hash == soft.concept.hash and again.masked is None


def test_where_pictures_have_masks_attractors_are_asked_for_all_that_is_outside(canvas, pictures, tmp_path) -> None:
    wish = replace(WISH, attractor=True)
    first, *others = pictures.pictures
    masked = dataset_of([replace(first, mask=torch.full(first.pixels.shape[:2], 255, dtype=torch.uint8)), *others], 1)
    lesson, _ = taught(canvas, masked, tmp_path, wish)
    assert lesson.finished and lesson.concept.info.recipe["mask_split"]


def test_soft_masks_are_drawn_on_the_node_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(host_utils, "PROGRESS_BAR_HOOK", lambda *args, **kwargs: drawn.append(args))
    LearningProgress()(Masked(torch.zeros(1, 8, 16, 3)), lambda concept: None)
    ((value, _, (kind, image, _), *_),) = drawn
    assert (value, kind, image.size) == (0, "JPEG", (16, 8))


def test_pictures_on_the_way_take_no_more_than_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("concept_loom.nodes.progress.time.perf_counter", lambda: now[0])
    progress, made = LearningProgress(), []

    def picture_of(concept: object) -> torch.Tensor:
        now[0] += 2.0
        made.append(2.0)
        return torch.zeros(1, 8, 8, 3)

    for step in range(1, 101):
        now[0] += 1.0
        progress(Step(step, 100, 0.5, now[0]), picture_of)
        progress(Preview(step, tiny.concept()), picture_of)
    assert len(made) > 5 and sum(made) <= PREVIEW_SHARE * now[0] + 2.0


def test_the_time_left_is_told_anew_where_learning_began_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After memory ran out its clock starts at 0: nothing of the first attempt may count."""
    said: list[str] = []
    monkeypatch.setattr("concept_loom.nodes.progress.tell", lambda event, data: said.append(data["text"]))
    progress = LearningProgress("7")
    for step in range(1, 61):
        progress(Step(step, 100, 0.5, 1.0 * step), lambda concept: None)
    said.clear()
    progress(Started(100, 0), lambda concept: None)
    for step in range(41, 51):
        progress(Step(step, 100, 0.5, 10.0 * (step - 40)), lambda concept: None)
    assert said[-1] == "50 of 100 steps, about 8 minutes left on this machine."
