"""Scatters figures over a sheet that goes on at its opposite edges."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from gateway.engine.sketch.sheet import Place

_PITCH: Final = 32.0
"""Pixels between the middles of neighbours, about: so many copies that it looks like a pattern."""
_LARGE: Final = 1.16
"""Of the pitch: the size of a figure."""
_SMALL: Final = 0.66
"""The same of the copies between, if there is but one figure."""
_EQUAL: Final = 0.94
"""The same if different figures take turns."""
_LOOSE: Final = 0.05
_TURN: Final = 14.0


def scattered(shapes: Sequence[tuple[int, ...]], height: int, width: int, draw: np.random.Generator) -> list[Place]:
    """Return places in a half-drop pattern of all figures in turn; `shapes` begin with their heights and widths."""
    rows, columns = (2 * max(1, round(edge / (2 * _PITCH))) for edge in (height, width))
    down, across = height / rows, width / columns
    places: list[Place] = []
    for number in range(rows * columns if shapes else 0):
        row, column = divmod(number, columns)
        between = (row + column) % 2
        figure = (between + row // 2 * 2) % len(shapes) if len(shapes) > 1 else 0
        fill = _EQUAL if len(shapes) > 1 else (_LARGE, _SMALL)[between]
        size = fill * min(down, across) / max(shapes[figure][:2]) * float(draw.uniform(0.9, 1.06))
        y = (row + 0.5 + float(draw.uniform(-_LOOSE, _LOOSE))) * down
        x = (column + 0.5 + float(draw.uniform(-_LOOSE, _LOOSE))) * across
        places.append(Place(figure, y, x, size, round(float(draw.uniform(-_TURN, _TURN)), 1)))
    return places
