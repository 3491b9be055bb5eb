"""Lines to follow: tells a line drawing from a photograph, and draws the outlines of the latter.

The way from a photograph is Canny's (1986): the slope of the smoothed brightness, thinned across, kept where it is
strong or hangs together with strong parts.
"""

from typing import Final

import numpy as np

from gateway.engine.denoise.masks import Mask
from gateway.engine.denoise.sums import box_mean
from gateway.engine.interface import Pixels, Plane
from gateway.engine.paint.frame import Frame, finer, largest, mean

_DARK: Final = 64
_LIGHT: Final = 192
_TWO_TONED: Final = 0.85
"""A drawing's least part of pixels that are dark or light."""
_THICKEST: Final = 0.025
"""Half of the thickest line, as part of the short edge."""
_SOLID: Final = 0.1
"""A drawing's greatest part of its ink that is farther from paper than half a thick line."""
_STRONG: Final = 0.9
"""The part of slopes that are below what surely is a line."""
_WEAK: Final = 0.35
"""The slope that goes on with a line, as part of a strong one."""
_LEAST_SLOPE: Final = 12.0
"""Levels of 255 per cell: what is flatter is no line, also in a picture without steeper ones."""
_FINER: Final = 2
"""Outlines are looked for at so many times the canvas's resolution."""


def lines(edges: Pixels, frame: Frame) -> Plane:
    """Return the cells that lines run through as 1, the others as 0, of shape (rows, columns).

    `edges` is a picture's brightness of shape (height, width): a drawing, light on dark or dark on light, of which
    every line survives, however thin; or anything else, of which the outlines are drawn.
    """
    ink = _ink(edges)
    if ink is not None:
        return (largest(ink, frame) > 127).astype(np.float32)
    found = outlines(mean(edges, finer(frame, _FINER)))
    rows, columns = frame.size
    cells = found.reshape(rows, _FINER, columns, _FINER)
    drawn = np.any(cells, axis=(1, 3))
    return np.where(drawn, np.float32(1), np.float32(0))


def _ink(edges: Pixels) -> Pixels | None:
    """Return a drawing with its lines as light; None if it is no drawing."""
    dark, light = edges < _DARK, edges > _LIGHT
    if dark.mean() + light.mean() < _TWO_TONED:
        return None
    ink = edges if light.mean() < dark.mean() else 255 - edges
    drawn = ink > 127
    radius = max(2, round(_THICKEST * min(edges.shape)))
    if _eroded(drawn, radius).sum() > _SOLID * drawn.sum():
        return None
    return ink


def _eroded(mask: Mask, radius: int) -> Mask:
    """Keep what has nothing else above, below, left or right of it as far as `radius`."""
    padded = np.pad(mask, radius, mode="edge")
    for axis in (0, 1):
        # Doubling the reach: a run of n pixels is all set if two overlapping runs of less are.
        reach, wanted = 1, 2 * radius + 1
        while reach < wanted:
            more = min(reach, wanted - reach)
            size = padded.shape[axis] - more
            padded = padded.take(np.arange(size), axis) & padded.take(np.arange(more, more + size), axis)
            reach += more
    return padded


def outlines(brightness: Plane) -> Mask:
    """Return where the outlines of a picture (height, width) in 0..255 run, one pixel wide."""
    down, across = _slopes(box_mean(box_mean(brightness, 1), 1))
    steep = np.sqrt(down * down + across * across)
    ridge = np.where(_is_ridge(steep, down, across), steep, 0)
    strong = max(float(np.quantile(steep, _STRONG)), _LEAST_SLOPE)
    return _connected(ridge > strong, ridge > _WEAK * strong)


def _slopes(plane: Plane) -> tuple[Plane, Plane]:
    """Sobel's filters, in levels per pixel."""
    padded = np.pad(plane, 1, mode="edge")
    smooth_across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth_down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    eighth = np.float32(0.125)
    return eighth * (smooth_across[2:] - smooth_across[:-2]), eighth * (smooth_down[:, 2:] - smooth_down[:, :-2])


def _is_ridge(steep: Plane, down: Plane, across: Plane) -> Mask:
    """Whether a pixel is steeper than its two neighbours across the line."""
    padded = np.pad(steep, 1)
    height, width = steep.shape

    def moved(rows: int, columns: int) -> Plane:
        return padded[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    flat, level = np.abs(down), np.abs(across)
    # 0.414 is the tangent of 22.5 degrees: between there and its complement the way across is diagonal.
    directions = np.select([level <= 0.414 * flat, flat <= 0.414 * level, down * across > 0], [0, 1, 2], 3)
    ridge = np.zeros(steep.shape, bool)
    for direction, (rows, columns) in enumerate(((1, 0), (0, 1), (1, 1), (1, -1))):
        # One side may be equal, or a line of two equal pixels would vanish.
        top = (steep > moved(rows, columns)) & (steep >= moved(-rows, -columns))
        ridge |= (directions == direction) & top
    return ridge


def _connected(seeds: Mask, allowed: Mask) -> Mask:
    """Grow the seeds through what is allowed, in all eight directions."""
    grown = seeds
    while True:
        padded = np.pad(grown, 1)
        wide = padded[:-2] | padded[1:-1] | padded[2:]
        wider = (wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]) & allowed | grown
        if (wider == grown).all():
            return grown
        grown = wider
