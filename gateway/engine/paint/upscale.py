"""Making a finished picture larger, a strip of rows a step, so that it tells its progress and can be stopped.

A picture that is made of equal squares, as the painter's are, is taken back to one pixel a square and made large as a
drawing, with clean outlines. Everything else goes through Lanczos's filter, slightly sharpened.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.interface import Pixels, Plane
from gateway.engine.paint.filters import Drawing, drawing, lanczos, sharpened, whole
from gateway.engine.paint.finish import as_pixels, straight

_MOST: Final = 2048
_BAND: Final = 64
_PREVIEW_EDGE: Final = 256
_COARSE: Final = 8
"""What is not done yet is shown in squares of so many of the preview's pixels."""
_LARGEST_CELL: Final = 64
_LEAST_CELLS: Final = 16
"""Of fewer squares an edge we do not believe that they are a grid."""
_OFF_GRID: Final = 0.03
"""The greatest part of all differences between neighbours that may lie within squares."""
_GRAIN: Final = 2
"""Levels: a difference that is none, but what a format with losses left."""


@dataclass(frozen=True, slots=True, eq=False)
class Enlargement:
    """What to make larger, and how large; raises `ValueError` for what cannot be."""

    picture: Pixels
    """RGB or RGBA with straight alpha, of shape (height, width, 3 or 4), at most 2048 pixels an edge."""
    width: int
    """Pixels, 1 to 2048, as `height`; may be less than the picture's own."""
    height: int
    steps: int = 10
    """1 to 150: strips of rows."""

    def __post_init__(self) -> None:
        edges = (self.width, self.height, *self.picture.shape[:2])
        if not all(1 <= edge <= _MOST for edge in edges) or not 1 <= self.steps <= 150:
            raise ValueError("edges are 1 to 2048, steps 1 to 150")
        if self.picture.ndim != 3 or self.picture.shape[2] not in {3, 4}:
            raise ValueError("a picture is RGB or RGBA")


@dataclass(frozen=True, slots=True, eq=False)
class Enlarged:
    """What a job works on, the same object for all its steps: each fills in its rows of `picture`."""

    source: Plane
    """Premultiplied planes (3 or 4, height, width) in 0..1: the picture, or the squares it is made of."""
    drawing: Drawing | None
    """The squares, if it is made of such."""
    picture: Pixels


class Upscaler:
    """Goes through an enlargement as a `Denoiser` goes through a painting; holds nothing."""

    def begin(self, job: Enlargement) -> Enlarged:
        """Look at the picture, and return an empty one of the asked size."""
        empty = np.zeros((job.height, job.width, job.picture.shape[2]), np.uint8)
        if job.picture.shape == empty.shape:
            return Enlarged(_planes(job.picture), None, empty)
        cell = cell_of(job.picture)
        if cell == 1:
            return Enlarged(sharpened(_planes(job.picture)), None, empty)
        base = _planes(job.picture[cell // 2 :: cell, cell // 2 :: cell])
        return Enlarged(base, drawing(base), empty)

    def step(self, job: Enlargement, state: Enlarged, step: int) -> tuple[Enlarged, Pixels]:
        """Enlarge strip `step` (1 to `job.steps`); return the state and a small RGB preview of all that is done."""
        done = job.height * step // job.steps
        for top in range(job.height * (step - 1) // job.steps, done, _BAND):
            rows = slice(top, min(top + _BAND, done))
            state.picture[rows] = _pixels(_enlarged(job, state, rows))
        return state, _preview(job, state.picture, done)

    def finish(self, job: Enlargement, state: Enlarged) -> Pixels:
        """Return the picture in its asked size, with as many channels as it had."""
        return state.picture


def cell_of(picture: Pixels) -> int:
    """Return the edge in pixels of the squares that a picture is made of, beginning at its corner; 1 if it is not."""
    height, width = picture.shape[:2]
    whole = math.gcd(height, width)
    # Clear pixels may have any colour.
    seen = np.where(picture[..., 3:] > 0, picture, 0) if picture.shape[2] == 4 else picture
    steps = [_differences(seen, axis) for axis in (0, 1)]
    for cell in range(min(_LARGEST_CELL, min(height, width) // _LEAST_CELLS), 1, -1):
        if whole % cell == 0 and all(_on_grid(step, cell) for step in steps):
            return cell
    return 1


def _differences(picture: Pixels, axis: int) -> "NDArray[np.float64]":
    """Return the sum of the differences at each border between two rows (axis 0) or columns, from the first one on."""
    size = picture.shape[axis]
    sums = np.empty(size - 1, np.float64)
    # One border at a time: all at once would take twice the picture's memory and more.
    for place in range(size - 1):
        one, other = picture.take(place, axis).astype(np.int16), picture.take(place + 1, axis)
        sums[place] = np.maximum(np.abs(one - other) - _GRAIN, 0).sum()
    return sums


def _on_grid(differences: "NDArray[np.float64]", cell: int) -> bool:
    total = differences.sum()
    inside = total - differences[cell - 1 :: cell].sum()
    return bool(total > 0 and inside <= _OFF_GRID * total)


def _planes(picture: Pixels) -> Plane:
    planes = picture.transpose(2, 0, 1).astype(np.float32)
    planes /= 255
    if len(planes) == 4:
        planes[:3] *= planes[3]
    return planes


def _pixels(planes: Plane) -> Pixels:
    if len(planes) == 4:
        planes = straight(planes)
    return as_pixels(planes)


def _enlarged(job: Enlargement, state: Enlarged, rows: slice) -> Plane:
    frame = whole(job.height, job.width, state.source.shape)
    if state.drawing is not None:
        return state.drawing.rows(frame, rows)
    if state.source.shape[1:] == (job.height, job.width):
        return state.source[:, rows]
    return lanczos(state.source, frame, rows)


def _preview(job: Enlargement, picture: Pixels, done: int) -> Pixels:
    """Show the rows that are done, and below them the original in coarse squares."""
    part = min(1.0, _PREVIEW_EDGE / max(job.height, job.width))
    height, width = max(1, round(job.height * part)), max(1, round(job.width * part))
    edge = done * height // job.height
    fine, coarse = _sampled(picture, height, width, 1), _sampled(job.picture, height, width, _COARSE)
    shown = np.concatenate([fine[:edge], coarse[edge:]])
    if shown.shape[2] == 3:
        return shown
    alpha = shown[..., 3:].astype(np.uint16)
    laid: NDArray[np.uint16] = (shown[..., :3] * alpha + 255 * (255 - alpha)) // 255
    return laid.astype(np.uint8)


def _sampled(picture: Pixels, height: int, width: int, square: int) -> Pixels:
    rows, columns = (
        np.minimum((2 * (np.arange(edge) // square * square) + square) * size // (2 * edge), size - 1)
        for edge, size in ((height, picture.shape[0]), (width, picture.shape[1]))
    )
    sampled: Pixels = picture.take(rows, 0).take(columns, 1)
    return sampled
