"""Sums over squares, and fields that spread over gaps; all in a fixed order, so every process gets the same bits."""

import numpy as np

from gateway.engine.interface import Plane

_LEAST = 1e-6


def box_mean(plane: Plane, radius: int, *, tiling: bool = False) -> Plane:
    """Return of each pixel the mean over the square of 2 * radius + 1 around it, of a plane (..., height, width).

    Beyond the edges are the edges' pixels again, or the opposite ones if the plane is tiling.
    """
    for axis in (-2, -1):
        plane = _slide(plane, min(radius, 2 * plane.shape[axis]), axis, tiling=tiling)
    return plane


def _slide(plane: Plane, radius: int, axis: int, *, tiling: bool) -> Plane:
    size = plane.shape[axis]
    places = np.arange(-radius - 1, size + radius)
    places = places % size if tiling else np.clip(places, 0, size - 1)
    total = np.cumsum(plane.take(places, axis=axis), axis=axis, dtype=np.float64)
    ends = total.take(np.arange(2 * radius + 1, size + 2 * radius + 1), axis=axis)
    starts = total.take(np.arange(size), axis=axis)
    return ((ends - starts) / (2 * radius + 1)).astype(np.float32)


def spread(values: Plane, weights: Plane) -> Plane:
    """Return `values` (channels, height, width) with the gaps filled from around them, where `weights` (0..1) are low.

    Gaps get averages over the smallest squares that hold something (pull and push, Gortler et al. 1996). Without
    any weight the result is 0.
    """
    if min(weights.shape) == 1 or weights.all():
        return values * weights
    coarse = spread(*_halved(values, weights))
    wide = coarse.repeat(2, axis=-2).repeat(2, axis=-1)[:, : weights.shape[0], : weights.shape[1]]
    soft = box_mean(wide, 1)
    filled: Plane = weights * values + (1 - weights) * soft
    return filled


def _halved(values: Plane, weights: Plane) -> tuple[Plane, Plane]:
    """Average squares of 2 by 2 cells by their weights; a square's weight is their sum, at most 1."""
    height, width = weights.shape
    margins = ((0, height % 2), (0, width % 2))
    weighted = np.pad(values * weights, ((0, 0), *margins))
    weights = np.pad(weights, margins)
    quarters = [(slice(top, None, 2), slice(left, None, 2)) for top in (0, 1) for left in (0, 1)]
    total = np.zeros(weights[quarters[0]].shape, np.float32)
    sums = np.zeros(weighted[:, *quarters[0]].shape, np.float32)
    for quarter in quarters:
        total += weights[quarter]
        sums += weighted[:, *quarter]
    sums /= np.maximum(total, np.float32(_LEAST))
    return sums, np.minimum(total, np.float32(1))
