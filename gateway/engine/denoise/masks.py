"""Sets of cells: their bounds, and growing them."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""Of shape (height, width)."""
Box = tuple[int, int, int, int]
"""Top, left, bottom and right; the last two are beyond."""


def bounds(mask: Mask) -> Box | None:
    """Return the least box around what is set, in cells; None if nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def grown(mask: Mask, radius: int) -> Mask:
    """Return the mask grown by so many cells to each side and corner."""
    for axis in (0, 1):
        padded = np.pad(mask, [(radius, radius) if axis == at else (0, 0) for at in (0, 1)])
        size = mask.shape[axis]
        mask = np.any([padded.take(np.arange(start, start + size), axis) for start in range(2 * radius + 1)], axis=0)
    return mask


def squarer(box: Box, within: Box) -> Box:
    """Return the box with its shorter edge made as long as the longer one, as far as there is room within another."""
    edge = max(box[2] - box[0], box[3] - box[1])
    sides = []
    for near, far in ((0, 2), (1, 3)):
        length = min(edge, within[far] - within[near])
        start = (box[near] + box[far] - length) // 2
        start = min(max(start, within[near]), within[far] - length)
        sides.append((start, start + length))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right
