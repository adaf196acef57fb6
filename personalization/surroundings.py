"""Surroundings: the phrases that captions may say of what is around a thing, or of what a picture in a style shows.

In groups of which a caption says one phrase at most. The playground's are its world's words; those for real models are
ours, unmeasured, and there to be replaced by what one's own pictures show.
"""

from __future__ import annotations

from collections.abc import Sequence

Groups = tuple[tuple[str, ...], ...]

APART = "|"  # between the phrases of a line

_PLAYGROUND: Groups = (
    (
        *("on the beach", "in the forest", "in the snow", "in the city", "in the kitchen", "in the meadow"),
        *("at night", "in the desert"),
    ),
    ("on the left", "on the right", "in the center", "at the top", "at the bottom"),
    ("next to a ball", "next to a cube", "next to a plant", "next to a book", "next to a candle", "next to an apple"),
)
_PLAYGROUND_THINGS = ("a mug", "a bag", "a shoe", "a mascot", "a lamp", "a bottle")
_REAL: Groups = (
    (
        *("on a wooden table", "on a white table", "on a desk", "on a shelf", "on a windowsill", "on a chair"),
        *("on a sofa", "on a bed", "on a carpet", "on a wooden floor", "on a tiled floor", "on a white background"),
        *("in a kitchen", "in a bathroom", "in a garden", "on grass", "on a stone", "on pavement", "on a street"),
        *("in a forest", "on a beach", "in the snow", "in the water", "in a car", "in a shop"),
    ),
    ("held in a hand", "worn by a person", "next to a person", "next to a plant", "next to a book", "next to a cup",
     "next to a laptop", "next to a bottle", "next to food", "next to a dog", "next to a cat"),
    ("seen from above", "seen from the side", "seen from behind", "in close-up", "from far away"),
    ("in bright sunlight", "in dim light", "in lamplight", "at night"),
)  # fmt: skip
_REAL_THINGS = (
    *("a woman", "a man", "a child", "a crowd", "a portrait", "a dog", "a cat", "a horse", "a bird", "an animal"),
    *("flowers", "a tree", "a forest", "mountains", "a river", "the sea", "a village", "a city street", "a building"),
    *("a room", "a car", "a boat", "a still life", "food", "a pattern"),
)


def caption_of(phrases: Sequence[str], role: str) -> str:
    """The caption that says them, {} where the concept stands: "a photo of {} in the snow, on the left"."""
    if role == "style":
        return ", ".join((*phrases, "{}"))
    return " ".join(filter(None, ("a photo of {}", ", ".join(phrases))))


def prompt_of(phrases: Sequence[str], class_word: str, role: str) -> str:
    """The same without the concept, for a model that does not know it; without a class word "a photo in the snow"."""
    if role == "style":
        return ", ".join(filter(None, (*phrases, class_word and f"{class_word} style")))
    return caption_of(phrases, role).replace("{}" if class_word else " of {}", class_word)


def groups_of(text: str, family: str, role: str) -> Groups:
    """The lines of `text`, phrases apart by |, or where it is empty the family's own; ValueError where a line has none.

    Of a style the first group says what is in the picture: all of it that is not the style.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if lines:
        return tuple(map(_phrases, lines))
    groups, things = (_PLAYGROUND, _PLAYGROUND_THINGS) if family == "Playground" else (_REAL, _REAL_THINGS)
    return (things, *groups) if role == "style" else groups


def _phrases(line: str) -> tuple[str, ...]:
    found = tuple(filter(None, (" ".join(phrase.split()) for phrase in line.split(APART))))
    if not found:
        raise ValueError(
            f"The line '{line.strip()}' holds no phrase; one at least is needed. Write what may be around the thing, "
            "as in: on a table | on grass | in the snow."
        )
    return found
