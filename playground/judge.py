"""The judge: reads attributes, boxes, identity and style off a picture, and shares no weights with anything else.

Pictures are uint8 (n, h, w, 3) everywhere.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .judge_networks import (
    OBJECT,
    ORNAMENT,
    PANEL,
    Crop,
    Reader,
    Seen,
    Style,
    Thing,
    Transformer,
    Whole,
    close_convolutions,
    close_layers,
    convolutions,
    style_convolutions,
    style_patches,
)
from .world import BACKGROUNDS, CLASSES, COLOURS, COMPANIONS, NAMED_STYLES, POSITIONS, RESOLUTION, Truth

WEIGHTS = Path(__file__).parent / "weights"
NAMES = ("first", "second")
BATCH = 128

WHOLE_HEADS: dict[str, tuple[str, ...]] = {
    "objects": ("one", "two"),
    "background": BACKGROUNDS,
    "position": tuple(POSITIONS),
    "style": ("photo", *NAMED_STYLES, "unnamed"),
    "companion": ("none", *COMPANIONS),
}
CROP_HEADS: dict[str, tuple[str, ...]] = {"class": CLASSES, "colour": COLOURS}
SIDES = ("", "left ", "right ")  # whose crop: the only object's, or one of two
PAIR = tuple(f"{side}{head}" for side in SIDES[1:] for head in CROP_HEADS)
ATTRIBUTES = ("class", "colour", "background", "position", "style", "companion")
COLOURED = ("photo", *(name for name, style in NAMED_STYLES.items() if style.duotone < 0.5))

Answers = dict[str, list[str]]  # by head, one per picture


def visible(truth: Truth) -> dict[str, str]:
    """The right answers of a picture, by head; a head without one cannot be judged on it.

    Colours cannot be told in a style of one tone, nor in an unnamed style.
    """
    answers = {"background": truth.background, "style": truth.style, "companion": truth.companion}
    coloured = truth.style in COLOURED
    if truth.second_class is None:
        answers |= {"objects": "one", "class": truth.class_name, "position": truth.position}
        return answers | ({"colour": truth.colour} if coloured else {})
    here, there = ("left", "right") if truth.position == "left" else ("right", "left")
    answers |= {"objects": "two", f"{here} class": truth.class_name, f"{there} class": truth.second_class}
    return answers | ({f"{here} colour": truth.colour, f"{there} colour": truth.second_colour} if coloured else {})


class Networks(NamedTuple):
    whole: Whole
    crop: Crop
    style: Style

    def together(self) -> nn.ModuleDict:
        return nn.ModuleDict(self._asdict())


class Judge:
    def __init__(self, networks: Networks) -> None:
        networks.together().eval()
        self.networks = networks

    def attributes(self, images: Tensor) -> Answers:
        """What it sees: the heads of the whole picture, class and colour of the only object, of the left, the right."""
        seen = self._look(images)
        answers = _answers(seen.logits, WHOLE_HEADS)
        for side, boxes in zip(SIDES, seen.boxes.unbind(1), strict=True):
            things = _answers(self._inspect(images, boxes).logits, CROP_HEADS)
            answers |= {f"{side}{head}": answer for head, answer in things.items()}
        return answers

    def boxes(self, images: Tensor) -> Tensor:
        """The only object's box (n, 4): x0, y0, x1, y1 in 0..1."""
        return self._look(images).boxes[:, 0]

    def identity(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d) of the only objects, in the boxes that it finds."""
        return self._inspect(images, self.boxes(images)).identity

    def style(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d)."""
        with torch.inference_mode():
            return torch.cat([self.networks.style(pixels(part)) for part in images.split(BATCH)])

    def scene(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d) of the setting and of the object in it, half and half: a copy shares both.

        The setting alone would ring for every object in front of the same background.
        """
        seen = self._look(images)
        object_ = self._inspect(images, seen.boxes[:, 0]).identity
        return torch.cat([F.normalize(seen.scene, dim=1), object_], 1) / 2**0.5

    @torch.inference_mode()
    def _look(self, images: Tensor) -> Seen:
        return Seen(
            *map(torch.cat, zip(*(self.networks.whole(pixels(part)) for part in images.split(BATCH)), strict=True))
        )

    @torch.inference_mode()
    def _inspect(self, images: Tensor, boxes: Tensor) -> Thing:
        chunks = zip(images.split(BATCH), boxes.split(BATCH), strict=True)
        things = (self.networks.crop(pixels(part), place) for part, place in chunks)
        return Thing(*map(torch.cat, zip(*things, strict=True)))


def _answers(logits: Tensor, heads: dict[str, tuple[str, ...]]) -> Answers:
    parts = zip(heads.items(), split_heads(logits, heads), strict=True)
    return {head: [names[i] for i in part.argmax(1)] for (head, names), part in parts}


def split_heads(logits: Tensor, heads: dict[str, tuple[str, ...]]) -> tuple[Tensor, ...]:
    return logits.split([len(names) for names in heads.values()], 1)


def pixels(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def new_networks(name: str) -> Networks:
    """The untrained networks of the first or the second judge."""
    answers = [sum(map(len, heads.values())) for heads in (WHOLE_HEADS, CROP_HEADS)]
    if name == "first":
        trunks, close = (convolutions((24, 48, 64, 96), 1), convolutions((32, 64, 96), 1)), close_convolutions
        style = Style(style_convolutions((24, 32, 48)), (24, 32, 48))
    else:
        trunks, close = (Transformer(RESOLUTION // 8, 80, 3), Transformer(OBJECT // 8, 80, 2)), close_layers
        style = Style(style_patches((96, 96, 96)), (96, 96, 96))
    whole = Whole(Reader(trunks[0], RESOLUTION), answers[0])
    return Networks(whole, Crop(Reader(trunks[1], OBJECT), close(PANEL), close(ORNAMENT), answers[1]), style)


def load_judge(name: str, folder: Path = WEIGHTS) -> Judge:
    path = Path(folder) / f"judge-{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"The {name} judge's weights '{path.name}' are not in {path.parent.name}/. They come with the pack; "
            f"install it again, or train them with `python dev.py train`."
        )
    networks = new_networks(name)
    state = load_file(path)
    networks.together().load_state_dict({key: value.float() for key, value in state.items()})
    return Judge(networks)


def save_judge(networks: Networks, path: Path) -> None:
    part = path.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in networks.together().state_dict().items()}, part)
    part.replace(path)
