"""The data doctor: what is wrong with the pictures before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .buckets import LONGEST
from .dataset import ConceptDataset, fitting_box, twins_of, view
from .finding import FEW, Finding, finding_on, names_of
from .pictures import Picture
from .repeated import same_lines, turned, turned_ones
from .subject import cropped, one_place, small

SMALL = 0.75  # of the training size; a little less does no harm
LOST = 0.4  # of a picture's area cut away by the crop
NO_SIDE = 0  # for examine: what depends on the size of training is left out
BLUR_SIDE = 256  # sharpness is judged at this size, so that megapixels do not count as sharpness
BLURRED = 0.06  # of full contrast; a step edge gives 1 times its contrast, one blurred over 5 pixels 0.05

RIM = 8  # the rim is the 28 outer fields of 8 x 8
PLAIN = 0.67  # of the rim in one colour; drawn places gave up to 0.61, a backdrop with lettering on it from 0.73 on
ALIKE = (
    0.04  # of full contrast, the spread from picture to picture; one room gave up to 0.03, different ones from 0.14 on
)
EDGE, HOLE = 0.9, 0.05  # a mask inside out: white along this share of the edge, black on this share of the picture


# kind of finding: points off the set's score when every picture has it, and what to call it
COSTS = {
    "few": (30, "too few pictures"),
    "near-duplicates": (25, "near-duplicates"),
    "background": (25, "one background"),
    "pose": (15, "one pose or scale"),
    "watermark": (25, "a mark on all pictures"),
    "turned": (20, "pictures on their side"),
    "tiny": (25, "too small pictures"),
    "cut": (15, "an extreme shape"),
    "blur": (30, "blur"),
    "mask": (30, "masks inside out"),
    "small": (15, "a small subject"),
    "cropped": (15, "a subject cut off by the edge"),
}


class Health(NamedTuple):
    """A set's score, 0..100, and the sentence that tells it with its reasons."""

    points: int
    sentence: str


def examine(dataset: ConceptDataset, side: int = NO_SIDE) -> tuple[Finding, ...]:
    """All findings on `dataset` for a model trained at `side` x `side`; none means that nothing was noticed."""
    pairs, lying = twins_of(dataset.pictures), turned_ones(dataset)
    again = {j for _, j in pairs} | lying
    unlike = [picture for i, picture in enumerate(dataset.pictures) if i not in again]
    upright = turned([dataset.pictures[i] for i in sorted(lying)])
    background = _one_background(dataset)
    # One place has its own lines in every picture; only a plain backdrop leaves those of a pose or a mark.
    lines = same_lines(unlike) if background is None or all(map(_plain, unlike)) else None
    whole = (_few(dataset), _twins(dataset, pairs), background, lines, upright)
    single = (_tiny(dataset, side), _cut(dataset), _blurred(dataset), _inside_out(dataset))
    subject = (one_place(dataset), small(dataset), cropped(dataset))
    return tuple(finding for finding in (*whole, *single, *subject) if finding)


def health(dataset: ConceptDataset, findings: Sequence[Finding]) -> Health:
    """100, less the COSTS of each finding times the share of pictures that have it. A rule of thumb, not measured."""
    lost = [(COSTS[one.kind], len(one.pictures) / len(dataset.pictures)) for one in findings]
    points = max(0, round(100 - sum(cost * share for (cost, _), share in lost)))
    if not lost:
        said = "nothing to improve was noticed. Learn Concept, which knows the model, also looks at their size."
        return Health(points, f"Score of this set: {points} of 100; {said}")
    reasons = ", ".join(f"{name} -{cost * share:.0f}" for (cost, name), share in lost)
    return Health(points, f"Score of this set: {points} of 100 ({reasons}).")


def sharpness(picture: Picture) -> float:
    """A picture's sharpest edges, 0..1: the 99.5th percentile of |Laplacian| at a short side of at most 256 pixels."""
    grey = picture.pixels.float().mean(-1)[None, None] / 255
    scale = min(1.0, BLUR_SIDE / min(picture.size))
    grey = F.interpolate(grey, scale_factor=scale, mode="bilinear", antialias=True, align_corners=False)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(_percentile(F.conv2d(grey, kernel).abs().flatten(), 0.995))


def _percentile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(max(1, int(values.numel() * share))).values  # quantile() refuses long tensors


def _few(dataset: ConceptDataset) -> Finding | None:
    count = len(dataset.pictures)
    if count >= FEW:
        return None
    return Finding(
        "few",
        names_of(dataset.pictures),
        f"Only {count} of the {FEW} to 20 pictures that a concept needs: pose and background will be learned "
        "with it. Add pictures of the same thing from other sides and in other places.",
    )


def _twins(dataset: ConceptDataset, pairs: Sequence[tuple[int, int]]) -> Finding | None:
    if not pairs:
        return None
    named = [(dataset.pictures[i].name, dataset.pictures[j].name) for i, j in pairs]
    listed = "; ".join(f"{one} and {other}" for one, other in named)
    names = tuple(dict.fromkeys(name for pair in named for name in pair))
    return Finding("near-duplicates", names, f"Almost the same picture: {listed}. Keep one of each.")


def _tiny(dataset: ConceptDataset, side: int) -> Finding | None:
    small = [picture for picture in dataset.pictures if min(picture.size) < SMALL * side]
    return finding_on(
        "tiny",
        small,
        f"Smaller than the {side} x {side} that this model was trained at, so they are learned small and with less "
        "detail: {}. Use larger originals, or a model that was trained at a smaller size.",
    )


def _cut(dataset: ConceptDataset) -> Finding | None:
    cut = [picture for picture in dataset.pictures if max(picture.size) * (1 - LOST) > LONGEST * min(picture.size)]
    return finding_on(
        "cut",
        cut,
        f"No picture is learned longer than {LONGEST:g} times its short side, so more than {LOST:.0%} is cut away of: "
        "{}. Crop them around the subject, or give masks.",
    )


def _blurred(dataset: ConceptDataset) -> Finding | None:
    soft = [picture for picture in dataset.pictures if min(picture.size) > 2 and sharpness(picture) < BLURRED]
    return finding_on("blur", soft, "No sharp edge anywhere: {}. Leave them out, or the blur is learned too.")


def _one_background(dataset: ConceptDataset) -> Finding | None:
    bare = [picture for picture in dataset.pictures if picture.mask is None]
    if len(bare) < FEW or torch.stack([_rim(picture) for picture in bare]).std(0).mean() >= ALIKE:
        return None
    return Finding(
        "background",
        names_of(bare),
        "Along the edges all pictures look the same: this background will be learned with the subject. "
        "Add pictures in other places, or give masks.",
    )


def _rim(picture: Picture) -> Tensor:
    """(28, 3), from a few of its pixels: means of fields need no more."""
    box = fitting_box(picture, (RIM, RIM))
    crop = picture.pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    apart = max(1, box.height // (8 * RIM))
    few = crop[::apart, ::apart].permute(2, 0, 1)[None].float() / 255
    fields = F.interpolate(few, (RIM, RIM), mode="area")[0].permute(1, 2, 0)
    return torch.cat((fields[0], fields[-1], fields[1:-1, 0], fields[1:-1, -1]))


def _plain(picture: Picture) -> bool:
    """Whether most of the rim has one colour, as before a backdrop."""
    pixels = view(picture, (RIM * RIM, RIM * RIM)).pixels
    around = torch.ones(pixels.shape[:2], dtype=torch.bool)
    around[RIM:-RIM, RIM:-RIM] = False
    rim = pixels[around]  # (n, 3)
    return bool(((rim - rim.median(0).values).abs().amax(1) < ALIKE).float().mean() > PLAIN)


def _inside_out(dataset: ConceptDataset) -> Finding | None:
    """Load Image gives 1 - alpha: white on the subject when it was painted there, white around it for a cut-out."""
    wrong = [picture for picture in dataset.pictures if picture.mask is not None and _surrounds(picture.mask > 127)]
    return finding_on(
        "mask",
        wrong,
        "The mask is white around the edge and black inside, so the background would be learned and the subject not: "
        "{}. Load Image makes such a mask of a cut-out picture: put Invert Mask after it, or give the file itself to "
        "this node.",
    )


def _surrounds(white: Tensor) -> bool:
    edge = torch.cat((white[0], white[-1], white[:, 0], white[:, -1])).float().mean()
    return bool(edge > EDGE and 1 - white.float().mean() > HOLE)
