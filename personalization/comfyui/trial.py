"""The trial of a concept: it draws its prompts beside the class word, and both are held against real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

import comfy.sd
import torch
from comfy.clip_vision import ClipVisionModel
from torch import Tensor
from torch.nn.functional import interpolate

from ..asked import Asked, asked
from ..composition import PlacedConcept
from ..crops import cut_out, surroundings
from ..dataset import ConceptDataset, view
from ..fit import fits
from ..grid import Cell, Row, grid
from ..pictures import Picture
from ..preview import GUIDANCE, STEPS, Sitting
from ..scorecard import Drawn, Scorecard, Vectors, scorecard, unscored
from ..scores import Real, Surroundings, reads_pictures
from .canvas import Canvas
from .studio import Job, drawn, located, photographed, projects, read, seen
from .vision import Vision

NO_EYES = (
    "No CLIP_VISION is connected: identity, closed, kept, gap, leak, copies and text cannot be given, only pictures. "
    "Connect one (Load CLIP Vision) to have them scored."
)
OTHER_SET = (
    "It was learned from other pictures than these, or from another split of them: which of these it has seen is not "
    "known, so gap, leak and copies cannot be given. Connect the dataset that it was learned from."
)
NO_THING = (
    "A style, or a concept without a class word, is not found in its pictures: what surrounds it cannot be told from "
    "it, so leak cannot be given."
)
OTHER_TEXT = "Text scores cannot be given: "


class Effort(NamedTuple):
    """`seeds` pictures per prompt, from `seed` on."""

    seed: int = 0
    seeds: int = 2
    steps: int = STEPS
    guidance: float = GUIDANCE

    def sittings(self) -> list[Sitting]:
        return [Sitting(self.seed + number, self.steps, self.guidance) for number in range(self.seeds)]


class Album(NamedTuple):
    """What was drawn (prompts * seeds, h, w, 3), seeds fastest, and real pictures after the VAE."""

    concept: Tensor
    plain: Tensor
    training: Tensor
    held_out: Tensor


class Cuts(NamedTuple):
    """The same pictures without what surrounds the things, and without the things."""

    things: Album
    surroundings: Album


class Tried(NamedTuple):
    card: Scorecard
    sheet: Tensor  # (1, h, w, 3)
    note: str  # what is worth knowing of concept and model
    under: Mapping[str, object]  # what the numbers depend on beside model and prompts

    def data(self) -> dict[str, object]:
        """JSON-ready."""
        return {**self.card.data(), "under": dict(self.under)}


def tried(
    canvas: Canvas, placed: PlacedConcept, dataset: ConceptDataset, vision: ClipVisionModel | None, effort: Effort,
    lines: str = "",
) -> Tried:  # fmt: skip
    """Draws `lines` of prompts with the concept as it is placed; without `vision` nothing is scored."""
    with torch.inference_mode(False):
        note = fits(placed.concept, canvas.base())
        prompts = asked(lines, placed)
        album = _album(canvas, placed, prompts, dataset, effort)
        cuts = _cuts(canvas, placed, dataset, album) if vision else None
        card = _card(canvas.clip, vision, placed, prompts, (album, cuts), is_learned_from(placed, dataset))
    under = {
        "concept": placed.concept.hash,
        "strength": placed.strength,
        "pictures": dataset.uncaptioned.hash,
        "encoder": Vision(vision).name if vision else None,
        **effort._asdict(),
    }
    return Tried(card, _sheet(card, album, effort), note, under)


def texts_of(clip: comfy.sd.CLIP, prompts: Sequence[Asked], plain: Tensor, each: int) -> tuple[Tensor | None, str]:
    """Vectors (prompts * each, d) of the prompts without the placeholder, or why there are none.

    `plain` (prompts * each, d) are the class word's pictures as CLIP_VISION sees them: they must be found by their
    own prompts, or the two encoders do not belong together.
    """
    if not projects(clip):
        return None, (
            f"{OTHER_TEXT}this checkpoint's CLIP has no projection into the space of pictures (SD 1.5's never has). "
            "Judge by identity, and by eye."
        )
    texts = read(clip, [one.plain for one in prompts])
    if texts.shape[1] != plain.shape[1]:
        return None, (
            f"{OTHER_TEXT}the CLIP gives {texts.shape[1]} numbers and this CLIP_VISION {plain.shape[1]}; they must be "
            "two halves of one CLIP. Connect the CLIP_VISION of that CLIP."
        )
    middle = plain.view(len(prompts), each, -1).mean(1)
    if len(prompts) > 1 and not reads_pictures(middle, texts):
        return None, (
            f"{OTHER_TEXT}the class word's pictures are no nearer to their own prompts than to the others. CLIP and "
            "CLIP_VISION are not two halves of one CLIP, or the model does not follow these prompts."
        )
    return texts.repeat_interleave(each, 0), ""


def real_of(vision: ClipVisionModel, training: Tensor, held_out: Tensor, learned_from: bool) -> Real:
    """Vectors of real pictures. Where it is not known which were learned from, all of them only judge."""
    every = seen(vision, torch.cat((training, held_out)))
    if not learned_from:
        return Real(every[:0], every)
    return Real(every[: len(training)], every[len(training) :])


def is_learned_from(placed: PlacedConcept, dataset: ConceptDataset) -> bool:
    """Under whatever captions; files of before have the hash with these."""
    return placed.concept.info.data_hash in (dataset.uncaptioned.hash, dataset.hash)


def _album(
    canvas: Canvas, placed: PlacedConcept, prompts: Sequence[Asked], dataset: ConceptDataset, effort: Effort
) -> Album:
    jobs = [Job(one.text, (placed,), sitting) for one in prompts for sitting in effort.sittings()]
    jobs += [Job(one.plain, (), sitting) for one in prompts for sitting in effort.sittings()]
    concept, plain = drawn(canvas, jobs).chunk(2)
    return Album(concept, plain, photographed(canvas, dataset.training), photographed(canvas, dataset.holdout))


def _cuts(canvas: Canvas, placed: PlacedConcept, dataset: ConceptDataset, album: Album) -> Cuts | None:
    """None for a style, which is in all of a picture."""
    word = word_of_thing(placed)
    if not word:
        return None
    drawn = [(part, located(canvas, part, word)) for part in (album.concept, album.plain)]
    pictures = (dataset.training, dataset.holdout)
    real = [(part, _masks(canvas, part, own, word)) for part, own in zip(album[2:], pictures, strict=True)]
    pairs = (*drawn, *real)
    return Cuts(Album(*starmap(cut_out, pairs)), Album(*starmap(surroundings, pairs)))


def word_of_thing(placed: PlacedConcept) -> str:
    """By what the thing is found in its pictures; empty for a style."""
    info = placed.concept.info
    return "" if (placed.role or info.role) == "style" else info.class_word


def cut_drawn(canvas: Canvas, pictures: Tensor, class_word: str) -> Tensor:
    return cut_out(pictures, located(canvas, pictures, class_word))


def cut_real(canvas: Canvas, shown: Tensor, pictures: Sequence[Picture], class_word: str) -> Tensor:
    return cut_out(shown, _masks(canvas, shown, pictures, class_word))


def _masks(canvas: Canvas, shown: Tensor, pictures: Sequence[Picture], class_word: str) -> Tensor:
    """(n, 1, h, w) of pictures as shown (n, h, w, 3): a picture's own where it has one."""
    if not len(shown):
        return shown.new_zeros(0, 1, *shown.shape[1:3])
    masks = list(interpolate(located(canvas, shown, class_word), shown.shape[1:3], mode="bilinear"))
    own = [view(picture, (shown.shape[1], shown.shape[2])).mask for picture in pictures]
    return torch.stack([m if o is None else o[None] for m, o in zip(masks, own, strict=True)])


def _card(
    clip: comfy.sd.CLIP,
    vision: ClipVisionModel | None,
    placed: PlacedConcept,
    prompts: Sequence[Asked],
    albums: tuple[Album, Cuts | None],
    learned_from: bool,
) -> Scorecard:
    """`albums` holds whole pictures, and their cuts where things can be cut out."""
    album, cuts = albums
    info, each = placed.concept.info, len(album.plain) // len(prompts)
    if vision is None:
        return unscored(placed.word, info.class_word, prompts, each, NO_EYES)
    plain = seen(vision, album.plain)
    texts, why = texts_of(clip, prompts, plain, each)
    withheld = _withheld(why, learned_from, cuts is not None)
    real = real_of(vision, album.training, album.held_out, learned_from)
    whole = Vectors(Drawn(seen(vision, album.concept), plain, texts), real)
    things, beside = None, None
    if cuts is not None:
        cut = cuts.things
        drawn = Drawn(seen(vision, cut.concept), seen(vision, cut.plain), None)
        things = Vectors(drawn, real_of(vision, cut.training, cut.held_out, learned_from))
        if learned_from:
            beside = Surroundings(*(seen(vision, part) for part in cuts.surroundings[:3]))
    return scorecard(placed.word, info.class_word, prompts, whole, withheld, things, beside)


def _withheld(text: str, learned_from: bool, found: bool) -> Mapping[str, str]:
    """`found`: things could be cut out."""
    reasons = {"text": text} if text else {}
    reasons |= {} if found else {"leak": NO_THING}
    return reasons if learned_from else {**reasons, "gap": OTHER_SET, "leak": OTHER_SET, "copies": OTHER_SET}


def _sheet(card: Scorecard, album: Album, effort: Effort) -> Tensor:
    count = len(card.prompts)
    rows = [_references(album, max(count, 4))]
    for number in range(card.seeds):
        places = range(number, count * card.seeds, card.seeds)
        note = f"seed {effort.seed + number}"
        rows.append(_row(f"Class word: {card.class_word or 'none'}", note, album.plain, card, places, False))
        rows.append(_row(f"<{card.word}>", note, album.concept, card, places, True))
    return grid(f"<{card.word}> evaluated", card.sentences(), rows)


def _references(album: Album, most: int) -> Row:
    """Held-out pictures first; as many as fit."""
    every = [*(Cell(one, ("held out",), True) for one in album.held_out), *map(Cell, album.training)]
    note = f"{most} of {len(every)} pictures, after the VAE" if len(every) > most else "after the VAE"
    return Row("Real pictures", note, every[:most])


def _row(title: str, note: str, pictures: Tensor, card: Scorecard, places: range, learned: bool) -> Row:
    cells = []
    for place, one in zip(places, card.prompts, strict=True):
        scores, warning = card.caption(place, learned)
        lines = (one.text if learned else one.plain, *filter(None, (scores,)))
        cells.append(Cell(pictures[place], lines, warning=warning))
    return Row(title, note, cells)
