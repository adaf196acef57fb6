"""The scores of web/docs/ConceptLoom_EvaluateConcept/en.md over what a judge says, one number per picture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..personalization.scores import COPY_PERCENTILE
from .judge import COLOURED, PAIR, Answers
from .world import Setting, Truth


def asked(setting: Setting, class_name: str) -> dict[str, str]:
    """What a prompt asks of the picture, by head; a companion only where one is named."""
    wanted = {"class": class_name, "background": setting.background}
    wanted |= {"position": setting.position, "style": setting.style}
    return wanted | ({"companion": setting.companion} if setting.companion != "none" else {})


def asked_by(truth: Truth) -> dict[str, str]:
    """What a prompt that names the whole truth of one object asks; a colour only where the style shows it."""
    setting = Setting(truth.background, truth.position, truth.companion, truth.style)
    colour = {"colour": truth.colour} if truth.style in COLOURED else {}
    return asked(setting, truth.class_name) | colour


def right(answers: Answers, wanted: Sequence[dict[str, str]]) -> list[dict[str, bool]]:
    """For every picture, which of the things asked of it the judge sees."""
    return [{head: answers[head][i] == name for head, name in one.items()} for i, one in enumerate(wanted)]


def attributes(answers: Answers, wanted: Sequence[dict[str, str]]) -> Tensor:
    """The share (n,) of what was asked that the judge sees."""
    return torch.tensor([sum(one.values()) / len(one) for one in right(answers, wanted)])


def bound(answers: Answers, wanted: Sequence[dict[str, str]]) -> Tensor:
    """Whether (n,) two objects are there and each has its own class and colour on its own side."""
    heads = ("objects", *PAIR)
    return torch.tensor([all(one.get(head, True) for head in heads) for one in right(answers, wanted)])


def copied(scenes: Tensor, training: Tensor, real: Tensor) -> Tensor:
    """Whether (n,) a picture is nearer to a training picture than 99 % of real pairs of the instance are.

    scenes (n, d), training (t, d), real (m, d): unit vectors of whole pictures; among the real ones there should be
    some of the training pictures' settings, or a prompt that asks for such a setting rings the alarm.
    """
    pairs = real @ real.T
    usual = pairs[torch.ones_like(pairs).triu(1) > 0].quantile(COPY_PERCENTILE)
    return (scenes @ training.T).amax(1) > usual


def kept(identity: Tensor, threshold: float) -> Tensor:
    """Whether (n,) the crop is the instance: likeness above the judge's equal-error threshold."""
    return identity > threshold


def leaks(answers: Answers, wanted: Sequence[str], training: str) -> Tensor:
    """Whether (n,) the training background is seen where the prompt asks for another; NaN where it asks for that."""
    seen = answers["background"]
    return torch.tensor(
        [float("nan") if asks == training else float(sees == training) for sees, asks in zip(seen, wanted, strict=True)]
    )
