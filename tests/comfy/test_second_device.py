"""Learning and drawing on a device with a memory of its own, as on a GPU: the same values, and no two devices mixed."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import comfy.model_management as host
import pytest
import torch
from comfy.ldm.modules import attention
from comfy.model_patcher import ModelPatcher
from concept_loom.benchmarks.card import AMPLE, MAIN, card
from concept_loom.benchmarks.second_device import DEVICE, Memory, There
from concept_loom.personalization.comfyui.canvas import Canvas
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.gradient_checkpoint import checkpointed
from concept_loom.personalization.comfyui.lesson import Lesson
from concept_loom.personalization.comfyui.memory import Room, Way, room_for
from concept_loom.personalization.comfyui.patch import weave_model
from concept_loom.personalization.comfyui.session import training_session
from concept_loom.personalization.comfyui.weights import Weights
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.latents import TrainingLatents
from concept_loom.personalization.learned import Event, Preview
from concept_loom.personalization.learner import learn
from concept_loom.personalization.parts import ImageTokens, NestedValues
from concept_loom.personalization.training_pass import TrainingPass
from concept_loom.playground import model as playground
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from . import test_lesson, tiny
from .test_learning import STAGED, task
from .test_prompt_to_picture import picture

WISH = replace(test_lesson.WISH, steps=4)
weights, pictures = test_lesson.weights, test_lesson.pictures
Move = Callable[..., Memory]


@pytest.fixture
def move() -> Iterator[Move]:
    """From here on these patchers' models belong on a second device; one at a time."""
    with ExitStack() as stack:

        def moved(*patchers: ModelPatcher, **how) -> Memory:
            stack.close()
            return stack.enter_context(card(*patchers, **how))

        yield moved


@pytest.fixture
def lesson(pictures, weights: Path, tmp_path: Path, move: Move) -> Callable[..., tuple[Lesson, Memory | None]]:
    """Learned in a folder of its own, on the second device where its size is given."""

    def learned(method: str, size: int = 0, show=None, **how) -> tuple[Lesson, Memory | None]:
        model, clip, vae = test_lesson.canvas_of(weights)
        memory = move(model, clip.patcher, vae.patcher, size=size, **how) if size else None
        vae.device = DEVICE if size else MAIN
        wish = replace(WISH, method=method)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return test_lesson.taught(Canvas(model, clip, vae), pictures, folder, wish, show)[0], memory

    return learned


def same(one: Lesson, other: Lesson) -> None:
    for name, tensor in one.concept.tensors().items():
        torch.testing.assert_close(other.concept.tensors()[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", ["textual inversion", "layerwise", "nested", "staged fast"])
def test_every_method_learns_there_what_it_learns_here(lesson, method: str) -> None:
    here, _ = lesson(method)
    there, memory = lesson(method, AMPLE)
    same(here, there)
    assert memory.peak > memory.held


@pytest.mark.parametrize("method", ["textual inversion", "quick", "layerwise", "nested", "staged fast"])
def test_a_step_asks_the_device_for_nothing(lesson, method: str, monkeypatch) -> None:
    """But for its loss and whether all is finite, which the loop reads once behind it (`_finite` in learner.py)."""
    backward, reads = TrainingPass.backward, []

    def watched(self: TrainingPass, *given) -> Tensor:
        self.prompts.contexts(given[0].texts)  # what is frozen is encoded once in a learning
        memory = next(one for one in self.parameters.values() if isinstance(one, There)).place.memory
        before = memory.reads
        loss = backward(self, *given)
        reads.append(memory.reads - before)
        return loss

    monkeypatch.setattr(TrainingPass, "backward", watched)
    _, memory = lesson(method, AMPLE)
    assert set(reads) == {0} and memory.reads > len(reads)


def test_kernels_without_a_backward_pass_give_way(lesson, monkeypatch) -> None:
    """SageAttention and FlashAttention, chosen at the start or by a node."""
    here, _ = lesson("quick", AMPLE)
    used = []

    def attention_sage(*args, **kwargs) -> Tensor:
        used.append(args)
        return attention.attention_pytorch(*args, **kwargs).detach()

    monkeypatch.setattr(attention, "optimized_attention", attention.wrap_attn(attention_sage))
    monkeypatch.setattr(attention, "optimized_attention_masked", attention.wrap_attn(attention_sage))
    there, _ = lesson("quick", AMPLE)
    same(here, there)
    assert not used


def test_what_waits_stays_pinned_only_where_it_is(move: Move, monkeypatch) -> None:
    """Weights of inference mode are replaced; the host must not hold on to the places of the old ones."""
    pinned: dict[int, StorageWeakRef] = {}

    def pin(tensor: Tensor) -> bool:
        pinned[tensor.data_ptr()] = StorageWeakRef(tensor.untyped_storage())
        return True

    monkeypatch.setattr(host, "pin_memory", pin)
    monkeypatch.setattr(host, "unpin_memory", lambda tensor: pinned.pop(tensor.data_ptr(), None) is not None)
    with torch.inference_mode():
        model, clip = tiny.fresh_model(), tiny.fresh_clip()
    move(model, clip.patcher, size=clip.patcher.model_size() + model.model_size() * 6 // 10)
    frozen = Weights((clip.patcher, model))
    with torch.inference_mode():
        frozen.load()
    assert pinned
    with training_session(model, clip):
        gc.collect()
        assert not any(place.expired() for place in pinned.values())


@pytest.mark.parametrize("fits", [True, False])
def test_on_a_small_card_weights_wait_and_the_rest_fits(lesson, fits: bool) -> None:
    """Where all weights can be loaded but no step beside them, and where they cannot even be loaded."""
    ample, memory = lesson("quick", AMPLE)
    with torch.device("meta"):
        whole = sum(one.numel() * 4 for one in playground.new_unet().parameters())
    scarce, small = lesson("quick", memory.peak - whole // 4 if fits else whole + whole // 4)
    assert small.peak <= small.size and "of weights wait in main memory" in " ".join(scarce.sentences)
    same(ample, scarce)


@pytest.mark.parametrize("state", [host.VRAMState.LOW_VRAM, host.VRAMState.NO_VRAM, host.VRAMState.SHARED])
def test_however_comfyui_was_started_the_same_is_learned(lesson, state: host.VRAMState) -> None:
    ample, memory = lesson("quick", AMPLE)
    other, spared = lesson("quick", AMPLE, state=state)
    same(ample, other)
    less = spared.peak < 0.99 * memory.peak  # a few rows of CLIPs that were woven to encode wait for Python's collector
    assert less is (state is host.VRAMState.NO_VRAM)


def test_where_memory_runs_out_all_the_same_learning_goes_on_more_sparingly(lesson, monkeypatch) -> None:
    """Whatever is foretold the fastest way is taken, which is too much for the card in the middle of a step."""
    ample, memory = lesson("nested", AMPLE)
    monkeypatch.setattr(Room, "best", lambda room, batch_size: room.ways(batch_size)[0])
    scarce, small = lesson("nested", memory.peak * 985 // 1000)
    assert "Memory ran out, so it went on more sparingly" in " ".join(scarce.sentences)
    assert small.peak <= small.size
    same(ample, scarce)


def test_what_waits_already_is_not_fetched_to_make_room(move: Move, monkeypatch) -> None:
    """The host has loaded next to nothing of what cannot be loaded whole, and still misses a byte."""
    model, clip = tiny.fresh_model(), tiny.fresh_clip()
    size = (model.model_size() + clip.patcher.model_size()) * 3 // 4
    memory = move(model, clip.patcher, size=size)
    monkeypatch.setattr(host, "minimum_inference_memory", lambda: size + 1)
    frozen = Weights((clip.patcher, model))
    frozen.load()
    assert memory.held < frozen.size // 10 and frozen.loaded < frozen.size // 10


def test_a_host_that_keeps_nothing_loaded_pushes_out_no_model_that_learns(lesson, monkeypatch) -> None:
    """`--disable-smart-memory`: whatever it loads, everything else goes. Pictures on the way come without the VAE."""
    shown = []

    def show(event: Event, picture_of: Callable) -> None:
        if isinstance(event, Preview):
            shown.append(picture_of(event.concept))

    monkeypatch.setattr(host, "DISABLE_SMART_MEMORY", True)
    learned, _ = lesson("staged fast", AMPLE, show)
    assert learned.finished and learned.picture.std() > 0
    assert shown and all(one.std() > 0 for one in shown)
    assert any("the pictures on the way were rough" in one for one in learned.sentences)


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_every_part_draws_there_what_it_draws_here(family: str, move: Move) -> None:
    mug, hat = (tiny.concept(word, word, family) for word in ("mug", "hat"))
    region = torch.zeros(64, 64)
    region[:, 32:] = 1
    placed = (
        PlacedConcept(mug, region=1 - region, strength=0.8),
        PlacedConcept(tiny.guest(ImageTokens, hat), region=region, start=0.2),
        PlacedConcept(tiny.guest(NestedValues, tiny.concept("bag", "bag", family))),
        PlacedConcept(tiny.low_rank(tiny.concept("shoe", "shoe", family))),
        PlacedConcept(tiny.low_rank(tiny.concept("house", "house", family)), sparing=False),
    )
    text = f"a photo of {' and '.join(f'<{one.word}>' for one in placed)}"
    model, clip, pictures = tiny.fresh_model(family), tiny.fresh_clip(family), []
    for there in (False, True):
        if there:
            assert move(model, clip.patcher).held == 0
        woven = weave_model(model, placed), weave_clip(clip, placed)
        pictures.append(picture(*woven, text))
    assert next(model.model.parameters()).device == DEVICE and pictures[1].device == MAIN
    torch.testing.assert_close(*pictures, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("stage", [1, 2])
def test_blocks_that_are_computed_twice_keep_no_more_than_was_foretold_under_the_regulariser(move: Move, stage: int):
    """What watches the attention is told of it again in the backward pass, and must not keep that either."""
    model, clip = tiny.fresh_model("SDXL"), tiny.fresh_clip("SDXL")
    recipe = replace(STAGED, stages=(replace(STAGED.stages[stage], share=1.0),), steps=1, batch_size=1)
    latents = TrainingLatents((torch.randn(4, 32, 32),), (torch.ones(1, 32, 32),), ("",))
    memory = move(model, clip.patcher)
    with training_session(model, clip) as session:
        one = task(session, recipe, latents=latents)
        room = room_for(one, session)
        memory.peak = memory.held
        with checkpointed(session.denoiser.network):
            learn(one)
    assert memory.peak - room.weights < 1.15 * (room.needs(Way(True, 1)) - room.weights)
