"""The judge: reads attributes, boxes, identity and style off a picture, and shares no weights with anything else.

Pictures are uint8 (n, h, w, 3) everywhere.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .judge_networks import Identity, Reader, Seen, Transformer, Whole, convolutions
from .world import BACKGROUNDS, CLASSES, COLOURS, COMPANIONS, NAMED_STYLES, POSITIONS, RESOLUTION, Truth

WEIGHTS = Path(__file__).parent / "weights"
NAMES = ("first", "second")
CROP = 48  # pixels
MARGIN = 0.10  # of the object's longer side, all around
BATCH = 128

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "position": tuple(POSITIONS),
    "style": ("photo", *NAMED_STYLES, "unnamed"),
    "companion": ("none", *COMPANIONS),
}
PAIR: dict[str, tuple[str, ...]] = {
    "left class": CLASSES,
    "left colour": COLOURS,
    "right class": CLASSES,
    "right colour": COLOURS,
}
HEADS = {"objects": ("one", "two"), **ATTRIBUTES, **PAIR}
COLOURED = ("photo", *(name for name, style in NAMED_STYLES.items() if style.duotone < 0.5))


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


class Answer(NamedTuple):
    names: list[str]
    confidence: Tensor  # (n,), 0..1


class Judge:
    def __init__(self, whole: Whole, identity: Identity) -> None:
        self.whole, self.crop = whole.eval(), identity.eval()

    def attributes(self, images: Tensor) -> dict[str, Answer]:
        """What it sees, by the names in HEADS."""
        logits = self._look(images).logits.split([len(names) for names in HEADS.values()], 1)
        best = {head: part.softmax(1).max(1) for head, part in zip(HEADS, logits, strict=True)}
        return {head: Answer([HEADS[head][i] for i in index], sure) for head, (sure, index) in best.items()}

    def boxes(self, images: Tensor) -> Tensor:
        """The only object's box (n, 4): x0, y0, x1, y1 in 0..1."""
        return self._look(images).boxes[:, 0]

    def side_boxes(self, images: Tensor) -> Tensor:
        """Where two objects stand: the left one's and the right one's boxes (n, 2, 4)."""
        return self._look(images).boxes[:, 1:]

    @torch.inference_mode()
    def identity(self, images: Tensor, boxes: Tensor | None = None) -> Tensor:
        """Unit vectors (n, d) of the objects in the boxes (n, 4), by default those it finds itself."""
        boxes = self.boxes(images) if boxes is None else boxes
        chunks = zip(images.split(BATCH), boxes.split(BATCH), strict=True)
        return torch.cat([self.crop(crops(pixels(part), place)) for part, place in chunks])

    def style(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d)."""
        return self._look(images).style

    def scene(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d) of all that stands in the picture and where: what a copy shares with its original."""
        return F.normalize(self._look(images).scene, dim=1)

    @torch.inference_mode()
    def _look(self, images: Tensor) -> Seen:
        return Seen(*map(torch.cat, zip(*(self.whole(pixels(part)) for part in images.split(BATCH)), strict=True)))


def pixels(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(x: Tensor, boxes: Tensor) -> Tensor:
    """Squares around the boxes, with a margin: (n, 3, CROP, CROP)."""
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp(min=0.05) * (0.5 + MARGIN)
    centre = boxes[:, :2] + boxes[:, 2:] - 1  # in -1..1
    scale = torch.stack([2 * half, 2 * half], 1).diag_embed()
    grid = F.affine_grid(torch.cat([scale, centre[..., None]], 2), [len(x), 3, CROP, CROP], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def networks(name: str) -> tuple[Whole, Identity]:
    """The untrained networks of the first or the second judge."""
    if name == "first":
        trunks = convolutions((32, 56, 80, 112)), convolutions((32, 64, 88, 112))
    else:
        trunks = Transformer(RESOLUTION, 104, 3), Transformer(CROP, 104, 3)
    answers = sum(map(len, HEADS.values()))
    return Whole(Reader(trunks[0], RESOLUTION), answers), Identity(Reader(trunks[1], CROP))


def load_judge(name: str, folder: Path = WEIGHTS) -> Judge:
    path = Path(folder) / f"judge-{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"The {name} judge's weights '{path.name}' are not in {path.parent.name}/. They come with the pack; "
            f"install it again, or train them with `python dev.py train`."
        )
    whole, identity = networks(name)
    state = {key: value.float() for key, value in load_file(path).items()}
    nn.ModuleDict({"whole": whole, "identity": identity}).load_state_dict(state)
    return Judge(whole, identity)


def save_judge(whole: Whole, identity: Identity, path: Path) -> None:
    state = nn.ModuleDict({"whole": whole, "identity": identity}).state_dict()
    part = path.with_suffix(".part")
    save_file({name: value.half().contiguous() for name, value in state.items()}, part)
    part.replace(path)
