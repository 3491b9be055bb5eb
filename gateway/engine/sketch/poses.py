"""Varies a layout by chance: turned, mirrored, smaller, moved by some pixels, and still wholly within its box."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from gateway.engine.sketch.layout import Box, Shape
from gateway.engine.sketch.sheet import Place

_UPRIGHT: Final = 0.45
"""How many are neither turned nor scaled, so that an icon's pixels stay what they are."""
_SMALLEST: Final = 0.86
_TURN: Final = 6.0


def posed(
    places: Sequence[Place],
    shapes: Sequence[Shape],
    flips: Sequence[bool],
    box: Box,
    draw: np.random.Generator,
    *,
    sided: bool = False,
) -> list[Place]:
    """Return the places of one pose; `flips` tells which figures may be mirrored, `sided` forbids it to the whole."""
    upright = float(draw.random()) < _UPRIGHT
    scale = 1.0 if upright else float(draw.uniform(_SMALLEST, 1.0))
    turn = 0.0 if upright else round(float(np.clip(draw.normal(0, _TURN / 2), -_TURN, _TURN)), 1)
    whole = all(flips[place.figure] for place in places)
    mirrored = bool(draw.random() < 0.5) and whole and not sided
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    moved = [_moved(place, middle, scale, mirrored=mirrored) for place in places]
    loose = 0.0 if len(places) > 1 else 1.0
    turned = [replace(place, turn=turn * (1 if len(places) == 1 else 0.5)) for place in moved]
    shift = draw.uniform(-1, 1, 2) * (3.0 + 2.0 * loose)
    return _within(turned, shapes, box, float(shift[0]), float(shift[1]))


def _moved(place: Place, middle: tuple[float, float], scale: float, *, mirrored: bool) -> Place:
    y, x = middle[0] + (place.y - middle[0]) * scale, middle[1] + (place.x - middle[1]) * scale
    return replace(place, y=y, x=2 * middle[1] - x if mirrored else x, scale=place.scale * scale, mirrored=mirrored)


def _within(places: Sequence[Place], shapes: Sequence[Shape], box: Box, down: float, across: float) -> list[Place]:
    """Move all by the same, as far as the box allows; in whole pixels, so that unscaled figures stay sharp."""
    extents = [_extent(place, shapes[place.figure]) for place in places]
    top = min(place.y - high / 2 for place, (high, _) in zip(places, extents, strict=True))
    bottom = max(place.y + high / 2 for place, (high, _) in zip(places, extents, strict=True))
    left = min(place.x - wide / 2 for place, (_, wide) in zip(places, extents, strict=True))
    right = max(place.x + wide / 2 for place, (_, wide) in zip(places, extents, strict=True))
    down = _bounded(down, box[0] - top, box[2] - bottom)
    across = _bounded(across, box[1] - left, box[3] - right)
    return [replace(place, y=place.y + down, x=place.x + across) for place in places]


def _bounded(step: float, least: float, most: float) -> float:
    return (least + most) / 2 if least > most else min(max(step, least), most)


def _extent(place: Place, shape: Shape) -> tuple[float, float]:
    sine, cosine = abs(math.sin(math.radians(place.turn))), abs(math.cos(math.radians(place.turn)))
    high, wide = shape.height * place.scale, shape.width * place.scale
    return high * cosine + wide * sine, wide * cosine + high * sine
