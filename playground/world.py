"""A small picture world whose truth is known: draw a scene, caption it, render it."""

from typing import NamedTuple

import numpy as np

from .backgrounds import BACKGROUNDS, paint_background
from .canvas import RESOLUTION, Canvas, Part, Points, Pose, ellipse
from .captions import PROMPTS, Setting, caption, compose_caption, describe, full_caption
from .companions import COMPANIONS
from .instances import CLASSES, FACTORS, Instance, draw_instance, namesake, vary
from .palette import COLOURS, Colour, Rgb, luminance
from .patterns import PLACES, ornament, pattern
from .scenes import POSITIONS, Figure, Light, Prop, Scene, draw_scene
from .shapes import SHAPES, Shape
from .splits import identifier, share, split_of
from .styles import NAMED_STYLES, PHOTO, Style, draw_style
from .stylize import stylize

__all__ = [
    "BACKGROUNDS", "CLASSES", "COLOURS", "COMPANIONS", "FACTORS", "NAMED_STYLES", "PHOTO", "POSITIONS", "PROMPTS",
    "RESOLUTION", "Colour", "Figure", "Instance", "Light", "Picture", "Pose", "Prop", "Scene", "Setting", "Style",
    "Truth", "caption", "compose_caption", "describe", "draw_instance", "draw_scene", "draw_style", "full_caption",
    "held_out", "identifier", "namesake", "render", "split_of", "truth", "vary",
]  # fmt: skip

HELD_OUT = 0.08
ORNAMENT_RADIUS = 0.34
OUTLINE = 0.016
_INK, _CREAM, _MOONLIT = (0.07, 0.07, 0.09), (0.98, 0.96, 0.90), (0.55, 0.60, 0.80)


class Picture(NamedTuple):
    image: np.ndarray  # uint8 (H, W, 3)
    mask: np.ndarray  # bool (H, W), the subject
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 of the subject, 0..1


class Truth(NamedTuple):
    class_name: str
    colour: str
    background: str
    position: str
    style: str  # "photo", a name, or "unnamed"
    companion: str  # "none" or a name
    second_class: str | None
    second_colour: str | None
    instance_id: str
    style_id: str


def truth(scene: Scene) -> Truth:
    instance, second = scene.subject.instance, scene.second and scene.second.instance
    return Truth(
        class_name=instance.class_name,
        colour=instance.primary.name,
        background=scene.background,
        position=scene.position,
        style=scene.style_name,
        companion=scene.companion.name if scene.companion else "none",
        second_class=second.class_name if second else None,
        second_colour=second.primary.name if second else None,
        instance_id=identifier(instance),
        style_id=identifier(scene.style),
    )


def held_out(truth: Truth) -> bool:
    """True for about 8 % of the combinations a prompt can ask for; base training never renders them."""
    asked = (truth.class_name, truth.colour, truth.background, truth.position, truth.style, truth.companion)
    return share("held out " + " ".join(asked)) < HELD_OUT


def render(scene: Scene) -> Picture:
    """The picture of a scene: the same scene gives the same bytes."""
    canvas = Canvas()
    paint_background(canvas, scene.background, scene.background_seed)
    rim = _MOONLIT if scene.background == "night" else _INK
    if scene.companion:
        _paint_prop(canvas, scene.companion, rim)
    if scene.second:
        _paint_figure(canvas, scene.second, rim)
    mask = _paint_figure(canvas, scene.subject, rim).pixels() > 0.5
    image = stylize(_lit(canvas.pixels(), scene.light), scene.style, scene.style_seed)
    return Picture((image * 255 + 0.5).astype(np.uint8), mask, _box(mask))


def _lit(image: np.ndarray, light: Light) -> np.ndarray:
    warm = np.array([1 + 0.10 * light.warmth, 1.0, 1 - 0.10 * light.warmth], np.float32)
    return np.clip(image * (light.brightness * warm), 0, 1)


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def _paint_prop(canvas: Canvas, prop: Prop, rim: Rgb) -> None:
    _paint_shadow(canvas, prop.pose)
    parts = [Part(prop.pose.place(part.points), part.colour) for part in COMPANIONS[prop.name]]
    _paint_parts(canvas, parts, rim)


def _paint_shadow(canvas: Canvas, pose: Pose) -> None:
    canvas.veil(ellipse(pose.x, pose.y + 0.93 * pose.half, 0.95 * pose.half, 0.2 * pose.half), (0, 0, 0), 0.35)


def _paint_parts(canvas: Canvas, parts: list[Part], rim: Rgb) -> None:
    """One outline around them all, then the fills."""
    for part in parts:
        canvas.outline(part.points, rim, 2 * OUTLINE)
    for part in parts:
        canvas.fill(part.points, part.colour)


def _paint_figure(canvas: Canvas, figure: Figure, rim: Rgb) -> Canvas:
    """Paints it and returns the mask of what it covers."""
    instance, pose = figure.instance, figure.pose
    shape = SHAPES[instance.class_name](instance.taper, instance.build, instance.detail)
    _paint_shadow(canvas, pose)
    first, second = instance.primary.rgb, instance.secondary.rgb
    body = pose.place(shape.body)
    parts = [*_placed(pose, shape.behind, second), Part(body, first)]
    over = [*_placed(pose, shape.front, second), *_placed(pose, shape.plain, first)]
    _paint_parts(canvas, [*parts, *over], rim)
    _paint_pattern(canvas, figure, shape, body)
    for part in [*over, *_placed(pose, shape.dark, _eye(first))]:
        canvas.outline(part.points, _INK, OUTLINE)
        canvas.fill(part.points, part.colour)
    _paint_ornament(canvas, figure, shape)
    return _mask([*parts, *over])


def _eye(skin: Rgb) -> Rgb:
    return _INK if luminance(skin) > 0.3 else _CREAM


def _placed(pose: Pose, outlines: tuple[Points, ...], colour: Rgb) -> list[Part]:
    return [Part(pose.place(points), colour) for points in outlines]


def _mask(parts: list[Part]) -> Canvas:
    mask = Canvas("L")
    for part in parts:
        mask.mark(part.points)
    return mask


def _paint_pattern(canvas: Canvas, figure: Figure, shape: Shape, body: Points) -> None:
    instance, pose = figure.instance, figure.pose
    layer = Canvas()
    layer.fill(body, instance.primary.rgb)
    for points in pattern(instance.pattern, instance.frequency, shape.panel):
        layer.fill(pose.place(points), instance.secondary.rgb)
    canvas.paste(layer, _mask([Part(body, _INK)]))


def _paint_ornament(canvas: Canvas, figure: Figure, shape: Shape) -> None:
    """On a plain disc. A mirrored view mirrors the outline only: the ornament keeps its own left and right."""
    instance, pose, panel = figure.instance, figure.pose, shape.panel
    across, down = PLACES[instance.place]
    centre = (panel.x * (-1 if pose.flip else 1) + across * panel.half_width, panel.y + down * panel.half_height)
    colour = instance.ornament_colour.rgb
    disc = pose.place(ellipse(*centre, ORNAMENT_RADIUS * 1.15), mirrored=False)
    canvas.outline(disc, _INK, OUTLINE / 2)
    canvas.fill(disc, _INK if luminance(colour) > 0.55 else _CREAM)
    for points in ornament(instance.ornament):
        canvas.fill(pose.place(points * ORNAMENT_RADIUS + centre, mirrored=False), colour)
