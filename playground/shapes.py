"""Silhouettes as polygons in an object's own frame: x and y from -1 to 1, y down."""

from typing import NamedTuple

import numpy as np

from .canvas import Points, arc, band, box, ellipse, polygon, rounded


class Panel(NamedTuple):
    """The part of the body that ornaments are placed on: centre and half sizes."""

    x: float
    y: float
    half_width: float
    half_height: float


class Shape(NamedTuple):
    body: Points
    panel: Panel
    behind: tuple[Points, ...] = ()  # in the secondary colour
    front: tuple[Points, ...] = ()  # in the secondary colour
    plain: tuple[Points, ...] = ()  # in the primary colour, over the body
    dark: tuple[Points, ...] = ()  # eyes, openings


def _mix(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _trapezoid(x: float, y0: float, y1: float, top: float, bottom: float) -> Points:
    return polygon((x - top, y0), (x + top, y0), (x + bottom, y1), (x - bottom, y1))


def mug(taper: float, build: float, detail: str) -> Shape:
    width, height = _mix(0.40, 0.68, build), _mix(0.92, 0.60, build)
    top, bottom = width * _mix(0.72, 1.18, taper), width * _mix(1.18, 0.62, taper)
    x = 0.0 if detail == "twin" else -0.22
    y0, y1 = 0.1 - height, 0.1 + height
    side, mid = x + (top + bottom) / 2, (y0 + y1) / 2
    grip = 0.5 * height
    handles = {
        "round": (arc(side, mid, 0.40, grip, -0.27, 0.27, 0.17),),
        "square": (
            box(side - 0.1, mid - grip, side + 0.46, mid - grip + 0.18),
            box(side + 0.30, mid - grip, side + 0.46, mid + grip),
            box(side - 0.1, mid + grip - 0.18, side + 0.46, mid + grip),
        ),
        "twin": tuple(arc(s * side, mid, s * 0.30, 0.8 * grip, -0.27, 0.27, 0.16) for s in (-1, 1)),
        "stick": (band(polygon((side - 0.15, mid), (side + 0.25, mid - 0.1), (side + 0.62, mid - 0.25)), 0.26),),
    }
    body = rounded(_trapezoid(x, y0, y1, top, bottom), 2, 0.08)
    opening = ellipse(x, y0 + 0.05, top * 0.86, 0.10)
    return Shape(body, Panel(x, mid + 0.1, width, height - 0.1), handles[detail], (), (), (opening,))


def bag(taper: float, build: float, detail: str) -> Shape:
    width, top_edge = _mix(0.50, 0.80, build), _mix(-0.55, -0.05, build)
    top, bottom = width * _mix(0.62, 1.15, taper), width * _mix(1.15, 0.72, taper)
    body = rounded(_trapezoid(0, top_edge, 0.92, top, bottom), 2, 0.12)
    reach = min(0.55, top_edge + 0.98)
    behind = {
        "arch": (arc(0, top_edge + 0.06, 0.55 * top, reach, 0.5, 1.0, 0.14),),
        "twin": tuple(arc(s * 0.5 * top, top_edge + 0.05, 0.24, 0.6 * reach, 0.5, 1.0, 0.14) for s in (-1, 1)),
        "knot": (
            rounded(polygon((0, top_edge + 0.1), (-0.5, top_edge - 0.42), (-0.55, top_edge + 0.05))),
            rounded(polygon((0, top_edge + 0.1), (0.5, top_edge - 0.42), (0.55, top_edge + 0.05))),
        ),
        "flap": (arc(0, top_edge + 0.05, 0.40, 0.38, 0.5, 1.0, 0.15),),
    }
    flap = polygon((-top, top_edge), (top, top_edge), (top * 0.85, top_edge + 0.30), (0, top_edge + 0.52))
    flap = np.concatenate([flap, polygon((-top * 0.85, top_edge + 0.30))])
    mid, high = (top_edge + 0.92) / 2, (0.92 - top_edge) / 2
    return Shape(body, Panel(0, mid + 0.06, width, high), behind[detail], (flap,) if detail == "flap" else ())


def shoe(taper: float, build: float, detail: str) -> Shape:
    top, tip, toe = _mix(-0.30, -0.98, build), _mix(0.56, 1.0, taper), _mix(-0.12, 0.40, taper)
    upper = polygon((-0.85, top), (-0.10, top), (0.0, -0.12), (tip - 0.3, toe), (tip, 0.42), (tip, 0.68), (-0.85, 0.68))
    soles = {
        "flat": (box(-0.9, 0.62, tip + 0.04, 0.78),),
        "heel": (polygon((-0.9, 0.58), (tip, 0.6), (tip, 0.72), (-0.4, 0.72), (-0.55, 1.0), (-0.85, 1.0)),),
        "platform": (box(-0.92, 0.60, tip + 0.05, 1.0),),
        "cleats": (box(-0.9, 0.62, tip, 0.76), *(box(x, 0.7, x + 0.18, 0.98) for x in (-0.82, -0.42, -0.02, 0.38))),
    }
    cuff = box(-0.90, top - 0.02, -0.06, top + 0.14)
    return Shape(rounded(upper, 2, 0.14), Panel(-0.22, 0.18, 0.72, 0.42), (), (*soles[detail], cuff))


def mascot(taper: float, build: float, detail: str) -> Shape:
    head, belly = _mix(0.36, 0.56, taper), _mix(0.46, 0.86, build)
    y = -0.28
    face = ellipse(0, y, head * 1.1, head)
    crown = y - head
    ears = {
        "cat": tuple(polygon((s * head, y), (s * head * 1.05, crown - 0.18), (s * 0.1, crown + 0.12)) for s in (-1, 1)),
        "rabbit": tuple(ellipse(s * head * 0.5, crown - 0.08, 0.14, 0.40) for s in (-1, 1)),
        "bear": tuple(ellipse(s * head * 0.88, crown + 0.10, 0.24) for s in (-1, 1)),
        "antenna": (box(-0.05, crown - 0.25, 0.05, crown + 0.1), ellipse(0, crown - 0.22, 0.17)),
    }
    feet = tuple(ellipse(s * belly * 0.6, 0.92, 0.24, 0.12) for s in (-1, 1))
    eyes = tuple(ellipse(s * 0.22, y - 0.06, 0.085, 0.11, 10) for s in (-1, 1))
    mouth = arc(0, y + 0.14, 0.14, 0.07, 0.02, 0.48, 0.06)
    body = ellipse(0, 0.48, belly, 0.50, 32)
    return Shape(body, Panel(0, 0.52, belly * 0.95, 0.34), (*ears[detail], *feet), (), (face,), (*eyes, mouth))


def lamp(taper: float, build: float, detail: str) -> Shape:
    edge, top, bottom = _mix(-0.02, 0.42, build), _mix(0.22, 0.80, taper), _mix(0.92, 0.62, taper)
    stands = {
        "disc": (box(-0.07, edge - 0.1, 0.07, 0.9), ellipse(0, 0.9, 0.48, 0.10)),
        "tripod": tuple(
            band(polygon((0, edge - 0.1), (x / 2, _mix(edge, 0.97, 0.5)), (x, 0.97)), 0.11) for x in (-0.55, 0, 0.55)
        ),
        "balls": (
            *(ellipse(0, _mix(edge, 0.85, s), 0.2, (0.9 - edge) / 4) for s in (0.2, 0.65)),
            ellipse(0, 0.90, 0.36, 0.10),
        ),
        "block": (box(-0.07, edge - 0.1, 0.07, 0.8), box(-0.40, _mix(edge, 0.97, 0.45), 0.40, 0.97)),
    }
    shade = rounded(_trapezoid(0, -0.95, edge, top, bottom), 1, 0.05)
    mid = (edge - 0.95) / 2
    return Shape(shade, Panel(0, mid + 0.06, (top + bottom) / 2, (edge + 0.95) / 2), stands[detail])


def bottle(taper: float, build: float, detail: str) -> Shape:
    width, shoulder = _mix(0.38, 0.70, build), _mix(-0.42, 0.10, taper)
    right = [(0.17, -0.70), (0.17, shoulder - 0.22), (width * 0.8, shoulder - 0.06), (width, shoulder + 0.1)]
    right += [(width, 0.86), (width * 0.9, 0.95)]
    body = polygon(*right, *((-x, y) for x, y in reversed(right)))
    caps = {
        "cork": (_trapezoid(0, -0.98, -0.66, 0.20, 0.14),),
        "ball": (ellipse(0, -0.80, 0.25, 0.22),),
        "pump": (box(-0.09, -0.9, 0.09, -0.6), box(-0.52, -1.0, 0.22, -0.84), box(-0.24, -0.74, 0.24, -0.6)),
        "wide": (box(-0.40, -0.96, 0.40, -0.62),),
    }
    mid = (max(shoulder, -0.25) + 0.95) / 2
    return Shape(body, Panel(0, mid, width, 0.95 - mid), (), caps[detail])


SHAPES = {"mug": mug, "bag": bag, "shoe": shoe, "mascot": mascot, "lamp": lamp, "bottle": bottle}
DETAILS = {
    "mug": ("round", "square", "twin", "stick"),
    "bag": ("arch", "twin", "knot", "flap"),
    "shoe": ("flat", "heel", "platform", "cleats"),
    "mascot": ("cat", "rabbit", "bear", "antenna"),
    "lamp": ("disc", "tripod", "balls", "block"),
    "bottle": ("cork", "ball", "pump", "wide"),
}
