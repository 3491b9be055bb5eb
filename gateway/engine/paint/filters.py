"""Enlarging smoothly: Lanczos's filter, and one that makes small drawings large with clean, curved outlines.

All work on rows of the result at a time, so that the memory is bounded, and all of them on planes of any channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.interface import Plane
from gateway.engine.paint.frame import Frame, Span

_LOBES: Final = 3
_SHARPENED: Final = 0.3
"""How much of the difference to the mean of 3 by 3 pixels is added before enlarging."""
_STEEPER: Final = 2.0
"""How many times steeper an outline becomes than a smooth filter makes it."""
_SOFT: Final = 0.05
_HARD: Final = 0.3
"""Up to the first contrast (0..1) between neighbours all is a shade and stays smooth, from the second on an outline."""
_LEAST: Final = 1e-3

_Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def whole(height: int, width: int, cells: tuple[int, ...]) -> Frame:
    """Return the frame that stretches planes of the shape (..., rows, columns) in `cells` over a picture."""
    down, across = cells[-2:]
    return Frame(Span(down, height, height, down, 0), Span(across, width, width, across, 0))


def lanczos(planes: Plane, frame: Frame, rows: slice) -> Plane:
    """Return `rows` of pixels of the planes (channels, h, w), also for pictures smaller than the planes."""
    return _filtered(planes, frame, rows, _lanczos, _LOBES, tiling=False)


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A small picture of clear shapes, ready to be made large.

    Each pixel is moved away from the middle between the least and the greatest value around it, which makes outlines
    steep where they are smooth after enlarging. They stay where they were to a part of a pixel, if the small picture's
    outlines were smoothed, as ours are.
    """

    planes: Plane
    least: Plane
    greatest: Plane
    tiling: bool

    def rows(self, frame: Frame, rows: slice) -> Plane:
        """Return `rows` of pixels, of shape (channels, len(rows), width)."""
        smooth = _filtered(self.planes, frame, rows, _lanczos, _LOBES, tiling=self.tiling)
        least = _filtered(self.least, frame, rows, _linear, 1, tiling=self.tiling)
        greatest = _filtered(self.greatest, frame, rows, _linear, 1, tiling=self.tiling)
        contrast = greatest - least
        # Without the filter's waves beside an outline, which would be grain on a clear ground.
        smooth = np.clip(smooth, least, greatest)
        place = (smooth - least) / np.maximum(contrast, np.float32(_LEAST))
        steep = least + contrast * np.clip(np.float32(_STEEPER) * (place - np.float32(0.5)) + np.float32(0.5), 0, 1)
        outline = np.clip((contrast.max(axis=0) - np.float32(_SOFT)) / np.float32(_HARD - _SOFT), 0, 1)
        drawn: Plane = smooth + outline * (steep - smooth)
        return drawn


def drawing(planes: Plane, *, tiling: bool = False) -> Drawing:
    """Return the planes (channels, h, w) with what is around each pixel; a tiling one goes on at its opposite edges."""
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="wrap" if tiling else "edge")
    return Drawing(planes, _around(padded, np.minimum), _around(padded, np.maximum), tiling)


def sharpened(planes: Plane) -> Plane:
    """Return the planes slightly sharpened."""
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    tall = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    mean = (tall[..., :-2] + tall[..., 1:-1] + tall[..., 2:]) / np.float32(9)
    sharp: Plane = planes + np.float32(_SHARPENED) * (planes - mean)
    return sharp


def _around(padded: Plane, choose: np.ufunc) -> Plane:
    tall = choose(choose(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    chosen: Plane = choose(choose(tall[..., :-2], tall[..., 1:-1]), tall[..., 2:])
    return chosen


def _filtered(planes: Plane, frame: Frame, rows: slice, kernel: _Kernel, reach: int, *, tiling: bool) -> Plane:
    places, weights = _taps(frame.rows, rows, kernel, reach)
    tall = _weighted(planes, _inside(places, planes.shape[1], tiling=tiling), weights[..., None], axis=1)
    places, weights = _taps(frame.columns, slice(0, frame.columns.pixels), kernel, reach)
    return _weighted(tall, _inside(places, planes.shape[2], tiling=tiling), weights, axis=2)


def _inside(places: "NDArray[np.intp]", size: int, *, tiling: bool) -> "NDArray[np.intp]":
    return places % size if tiling else np.clip(places, 0, size - 1)


def _weighted(planes: Plane, places: "NDArray[np.intp]", weights: Plane, axis: int) -> Plane:
    total = planes.take(places[0], axis) * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += planes.take(place, axis) * weight
    return np.asarray(total, np.float32)


def _taps(span: Span, pixels: slice, kernel: _Kernel, reach: int) -> tuple["NDArray[np.intp]", Plane]:
    """Return which cells make up each pixel, and by which weights, both of shape (taps, pixels)."""
    step = span.below / span.above
    # A smaller picture is averaged: the filter grows with the step.
    wide = max(1.0, step)
    centres = (np.arange(pixels.start, pixels.stop) + 0.5) * step - 0.5 + span.first
    taps = math.ceil(reach * wide)
    places = np.floor(centres).astype(np.intp) + np.arange(1 - taps, taps + 1)[:, None]
    weights = kernel((places - centres) / wide)
    weights /= weights.sum(axis=0)
    return places, weights.astype(np.float32)


def _lanczos(away: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return np.where(np.abs(away) < _LOBES, np.sinc(away) * np.sinc(away / _LOBES), 0)


def _linear(away: "NDArray[np.float64]") -> "NDArray[np.float64]":
    weights: NDArray[np.float64] = np.clip(1 - np.abs(away), 0, 1)
    return weights
