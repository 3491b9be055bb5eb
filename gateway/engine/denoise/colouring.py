"""Colouring a drawing in: what lines enclose is filled with a sketch's colours, so that the lines' shape wins.

A closed form knows no other shapes than those of its sketches; with these it gets the drawn one.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.denoise.masks import Box, Mask, bounds
from gateway.engine.denoise.sums import spread
from gateway.engine.interface import Plane, Sheet

Labels = NDArray[np.intp]

_SEEN: Final = 0.3
"""The alpha from which on a cell belongs to the figure."""
_FLAT: Final = 0.6
"""How far a region's colours go to their mean, so that the sketch's own lines do not fight the drawn ones."""
_WEAK: Final = 0.5
_ENCLOSED: Final = 0.15
"""The least part of the drawing's box that its lines enclose, if they are to be filled."""
_DISTORTED: Final = 1.5
"""How much farther a figure is stretched one way than the other, at most."""
_INK: Final = 0.35
"""The brightness of a line, as part of the colours beside it."""


def coloured(sheet: Sheet, lines: Plane) -> Sheet:
    """Return a sheet (4, height, width) that has the lines' shape, and the colours of the one given.

    The figure is stretched to the drawing's box. What the lines enclose becomes opaque, what is outside transparent;
    if they enclose next to nothing, or are weak (under a half), the stretched figure itself is what they are drawn on.
    """
    drawn = lines > 0
    box = bounds(drawn)
    if box is None:
        return sheet
    figure = stretched(sheet, box)
    labels = regions(drawn)
    inside = (labels > 0) & ~_outside(labels)
    if lines.max() > _WEAK and inside.sum() > _ENCLOSED * (box[2] - box[0]) * (box[3] - box[1]):
        figure = _filled(figure, labels, inside)
    return _inked(figure, lines)


def regions(drawn: Mask) -> Labels:
    """Return a number from 1 on for each region that the lines part, 0 for the lines themselves.

    Regions hang together along edges, not corners, so that a thin slanted line parts them too.
    """
    height, width = drawn.shape
    # Every cell takes the greatest number around it until none changes; whole runs at a time, for speed.
    labels: Labels = np.where(drawn, 0, np.arange(1, height * width + 1).reshape(height, width))
    while True:
        before = labels
        for axis in (0, 1):
            labels = _swept(_swept(labels, axis), axis, back=True)
        if (labels == before).all():
            return labels


def _swept(labels: Labels, axis: int, *, back: bool = False) -> Labels:
    """Carry greater numbers along an axis as far as no line stops them."""
    turned = labels if axis == 0 else labels.T
    turned = turned[::-1].copy() if back else turned.copy()
    for above, row in pairwise(turned):
        np.maximum(row, above, out=row, where=(row > 0) & (above > 0))
    turned = turned[::-1] if back else turned
    return turned if axis == 0 else turned.T


def _outside(labels: Labels) -> Mask:
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.isin(labels, border[border > 0])


def stretched(sheet: Sheet, box: Box) -> Sheet:
    """Return the sheet with its figure moved and stretched to fill the box; of a long box, only the middle."""
    seen = bounds(sheet[3] > _SEEN)
    if seen is None:
        return sheet
    down, across = ((box[axis + 2] - box[axis]) / (seen[axis + 2] - seen[axis]) for axis in (0, 1))
    down, across = min(down, _DISTORTED * across), min(across, _DISTORTED * down)
    moved = np.zeros_like(sheet)
    targets, sources = [], []
    for axis, factor in ((0, down), (1, across)):
        size = max(1, round(factor * (seen[axis + 2] - seen[axis])))
        start = (box[axis] + box[axis + 2] - size) // 2
        targets.append(slice(start, start + size))
        sources.append(_places(seen[axis], seen[axis + 2], size))
    moved[:, *targets] = sheet[:, sources[0][:, None], sources[1]]
    return moved


def _places(start: int, end: int, count: int) -> Labels:
    return start + (2 * np.arange(count) + 1) * (end - start) // (2 * count)


def _filled(figure: Sheet, labels: Labels, inside: Mask) -> Sheet:
    """Fill the inside with the figure's colours, each region drawn to its mean."""
    solid = (figure[3] > _SEEN).astype(np.float32)
    opaque = spread(figure[:3] / np.maximum(figure[3], _SEEN), solid)
    counts = np.maximum(np.bincount(labels.ravel()), 1)
    fill = np.zeros_like(figure)
    for channel, plane in enumerate(opaque):
        means = np.bincount(labels.ravel(), plane.ravel().astype(np.float64)) / counts
        fill[channel] = plane + _FLAT * (means[labels].astype(np.float32) - plane)
    fill[3] = 1
    return fill * inside


def _inked(figure: Sheet, lines: Plane) -> Sheet:
    """Draw the lines, in a dark tone of the colours beside them."""
    beside = ((figure[3] > _SEEN) & (lines == 0)).astype(np.float32)
    tone = spread(figure[:3] / np.maximum(figure[3], _SEEN), beside)
    ink = np.concatenate([np.float32(_INK) * tone, np.ones_like(tone[:1])])
    return (figure + lines * (ink - figure)).astype(np.float32)
