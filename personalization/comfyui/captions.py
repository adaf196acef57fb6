"""Captions for the pictures that have none, from what the model on the canvas knows of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import comfy.model_management as host
import torch
from torch import Tensor

from ..captioner import Captioner, Phrases, predictions
from ..concept import refuse_unknown_role
from ..dataset import ConceptDataset
from ..surroundings import Groups, caption_of, groups_of, prompt_of
from .canvas import Canvas, latents_of
from .memory import ran_out
from .session import Session, training_session

SIZES = (16, 8, 4, 2)  # of a batch of predictions: the first that there is memory for, else one at a time
SPARE = 2.0  # times the memory that the host foresees for it

Watch = Callable[[int, int], None]  # how many predictions are done, and how many there are


def captioned(
    canvas: Canvas,
    dataset: ConceptDataset,
    class_word: str,
    role: str,
    phrases: str = "",
    watch: Watch = lambda done, every: None,
) -> ConceptDataset:
    """`dataset` with a caption for each picture that had none, of `phrases` or of the family's own (surroundings.py).

    The class word may be empty; somewhat more is then left unsaid. MemoryError where there is too little memory for a
    single prediction.
    """
    with torch.inference_mode(False):
        base, class_word = canvas.base(), class_word.strip()
        refuse_unknown_role(role)
        groups, bare = groups_of(phrases, base.family, role), [one for one in dataset.pictures if not one.caption]
        if not bare:
            return dataset
        shown = latents_of(canvas, ConceptDataset(tuple(bare)), base).train
        with training_session(canvas.model, canvas.clip) as session:
            asked = partial(prompt_of, class_word=class_word, role=role)
            counted = _counted(len(bare) * predictions(groups), watch)
            captioner = Captioner(*session, asked, _batch_size(session, shown), counted)
            said = [caption_of(_phrases(captioner, x0, groups), role) for x0 in shown]
        captions = iter(said)
        pictures = [one if one.caption else replace(one, caption=next(captions)) for one in dataset.pictures]
        return replace(dataset, pictures=tuple(pictures))


def _phrases(captioner: Captioner, x0: Tensor, groups: Groups) -> Phrases:
    try:
        return captioner.phrases(x0, groups)
    except Exception as error:
        if not ran_out(error):
            raise
    host.soft_empty_cache()
    try:
        return replace(captioner, batch_size=1).phrases(x0, groups)
    except Exception as error:
        if not ran_out(error):
            raise
        raise MemoryError(
            "The device has too little memory to look at one picture with this model. Room for one prediction is "
            "needed. Close what else uses the device, or write the captions on Concept Dataset."
        ) from error


def _counted(every: int, watch: Watch) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        host.throw_exception_if_processing_interrupted()
        watch(done, every)
        done += size

    return count


def _batch_size(session: Session, shown: Sequence[Tensor]) -> int:
    patcher, device = session.denoiser.patcher, session.denoiser.device
    largest = max((one.shape for one in shown), key=lambda shape: shape.numel())
    free = int(host.get_free_memory(device))  # pyright: ignore[reportArgumentType]
    return next((size for size in SIZES if SPARE * patcher.model.memory_required([size, *largest]) < free), 1)
