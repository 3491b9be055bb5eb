"""How the model's small canvas lies under the asked picture, and the ways from many pixels to few cells and back.

A cell is a pixel of the canvas. Along each axis a cell covers a whole or broken number of pixels, at least 1, and cells
beyond the picture's edges are cut off. All is done by plain sums in a fixed order, so every process gets the same bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.engine.interface import OWN_EDGE, Pixels, Plane

_GRID: Final = 16
"""Edges of the canvas are multiples of this: what the network halves its picture by."""
_LEAST_EDGE: Final = 32
"""Cells: of a very long picture the canvas grows, rather than its short edge shrinking to nothing."""
_AREA_COUNTS: Final = 0.25
"""How much a wrong area counts against a wrong shape."""


@dataclass(frozen=True, slots=True)
class Span:
    """One axis: `cells` of which the ones from `first` on lie on `pixels`, each covering `above / below` of them."""

    cells: int
    pixels: int
    above: int
    below: int
    first: int

    def bounds(self, cell: int) -> tuple[float, float]:
        """Return where a cell starts and ends, in pixels; it may lie outside the picture."""
        cell -= self.first
        # One division of whole numbers each, so that whole results are exact.
        return cell * self.above / self.below, (cell + 1) * self.above / self.below

    @property
    def scale(self) -> float:
        """Pixels a cell."""
        return self.above / self.below

    @property
    def visible(self) -> slice:
        """The cells that the picture shows, also in part."""
        return slice(self.first, self.first - (-self.pixels * self.below // self.above))

    def taps(self, pixels: slice) -> tuple["np.ndarray[tuple[int], np.dtype[np.intp]]", Plane]:
        """Return of each pixel its first cell, and which part (0..1) of it lies on the next one."""
        places = np.arange(pixels.start, pixels.stop)
        cells = places * self.below // self.above
        parts = np.clip(places + 1 - (cells + 1) * self.above / self.below, 0, 1)
        return cells + self.first, parts.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """The canvas of a picture: how its rows and columns of cells lie on the picture's pixels."""

    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the canvas in cells."""
        return self.rows.cells, self.columns.cells

    @property
    def visible(self) -> tuple[slice, slice]:
        """The rows and columns of cells that the picture shows."""
        return self.rows.visible, self.columns.visible

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Top, left, bottom and right of what is visible in cells; None = the whole canvas."""
        rows, columns = self.visible
        box = (rows.start, columns.start, rows.stop, columns.stop)
        return None if box == (0, 0, *self.size) else box


def frame_for(height: int, width: int, *, tiling: bool = False) -> Frame:
    """Return the canvas for a picture of 64 to 2048 pixels an edge.

    Its area is near `OWN_EDGE` squared and its shape near the picture's, so that figures are as large in it as the
    model has learnt. Cells are square and what juts out is cut off evenly, but for tiling: there opposite edges must
    meet, and the cells are stretched instead.
    """
    down, across = _canvas(height, width)
    if tiling:
        return Frame(Span(down, height, height, down, 0), Span(across, width, width, across, 0))
    above, below = (height, down) if height * across >= width * down else (width, across)
    spans = []
    for cells, pixels in ((down, height), (across, width)):
        # Rounded down: so the first visible cell is a whole one.
        first = (cells - math.ceil(pixels * below / above)) // 2
        spans.append(Span(cells, pixels, above, below, first))
    return Frame(*spans)


def _canvas(height: int, width: int) -> tuple[int, int]:
    edges = range(_LEAST_EDGE, _longest(height, width) + 1, _GRID)
    choices = [(down, across) for down in edges for across in edges if down <= height and across <= width]

    def wrong(choice: tuple[int, int]) -> float:
        down, across = choice
        shape = abs(math.log(down * width / (across * height)))
        # An area that the short edge forces is not held against a choice.
        area = max(OWN_EDGE**2, _LEAST_EDGE**2 * max(height, width) // min(height, width))
        return shape + _AREA_COUNTS * abs(math.log(down * across / area))

    return min(choices, key=wrong)


def _longest(height: int, width: int) -> int:
    return max(2 * OWN_EDGE, _LEAST_EDGE * max(height, width) // min(height, width))


def mean(pixels: Pixels, frame: Frame) -> Plane:
    """Return the average over each cell of a picture (height, width, ...), 0..255, of shape (rows, columns, ...).

    Cells outside the picture repeat the nearest one inside.
    """
    down = _along(frame.rows, pixels)
    across = _along(frame.columns, down.swapaxes(0, 1))
    return across.swapaxes(0, 1).astype(np.float32)


def _along(span: Span, values: Pixels | Plane) -> Plane:
    """Average along the first axis."""
    cells = []
    for start, end in _clipped(span):
        first, last = math.floor(start), math.ceil(end)
        total = values[first:last].sum(axis=0, dtype=np.float64)
        total -= (start - first) * values[first]
        total -= (last - end) * values[last - 1].astype(np.float64)
        cells.append(total / (end - start))
    return np.stack(cells)


def largest(plane: Pixels, frame: Frame) -> Pixels:
    """Return the greatest value that touches each cell, of a plane (height, width), in shape (rows, columns)."""
    down = _largest_along(frame.rows, plane)
    return _largest_along(frame.columns, down.T).T


def _largest_along(span: Span, values: Pixels) -> Pixels:
    return np.stack([values[math.floor(start) : math.ceil(end)].max(axis=0) for start, end in _clipped(span)])


def _clipped(span: Span) -> Iterator[tuple[float, float]]:
    """Give the bounds of each cell; of one outside the picture, those of the nearest one inside."""
    shown = span.visible
    for cell in range(span.cells):
        start, end = span.bounds(min(max(cell, shown.start), shown.stop - 1))
        yield max(start, 0.0), min(end, float(span.pixels))


def crisp(plane: Plane, frame: Frame, rows: slice) -> Plane:
    """Return `rows` of pixels of a plane of cells (..., rows, columns), of shape (..., len(rows), width).

    Cells keep hard edges and look equally large; a pixel between two cells takes its part of each.
    """
    tall = _mixed(plane, *frame.rows.taps(rows), axis=-2)
    return _mixed(tall, *frame.columns.taps(slice(0, frame.columns.pixels)), axis=-1)


def _mixed(plane: Plane, cells: "np.ndarray[tuple[int], np.dtype[np.intp]]", parts: Plane, axis: int) -> Plane:
    here = plane.take(cells, axis=axis)
    if not parts.any():
        return here
    beyond = plane.take(np.minimum(cells + 1, plane.shape[axis] - 1), axis=axis)
    mixed: Plane = here + (parts[:, None] if axis == -2 else parts) * (beyond - here)
    return mixed


def finer(frame: Frame, times: int) -> Frame:
    """Return the frame of a canvas with so many times the cells along each axis."""
    return Frame(_finer(frame.rows, times), _finer(frame.columns, times))


def _finer(span: Span, times: int) -> Span:
    return Span(span.cells * times, span.pixels, span.above, span.below * times, span.first * times)
