"""From many pixels to few and back, and blurring; all by plain sums, so that every process gets the same bits."""

import math

import numpy as np

from gateway.engine.interface import Pixels, Plane


def shrink(pixels: Pixels, height: int, width: int) -> Plane:
    """Return the averages of blocks of pixels (h, w, ...) as floats 0..255, of shape (height, width, ...)."""
    sums = pixels.astype(np.uint32) if pixels.size < 1_000_000 else pixels
    count = np.ones(())
    for axis, edge in ((0, height), (1, width)):
        starts = np.arange(edge) * sums.shape[axis] // edge
        sizes = np.diff(starts, append=sums.shape[axis])
        sums = np.add.reduceat(sums, starts, axis=axis, dtype=np.uint32)
        count = count[..., None] * sizes
    return (sums / count.reshape(height, width, *[1] * (pixels.ndim - 2))).astype(np.float32)


def enlarge(plane: Plane, height: int, width: int, rows: slice) -> Plane:
    """Return `rows` of the plane (..., h, w) enlarged to (..., height, width), by Catmull-Rom splines."""
    tall = _spline(plane, height, rows.start, rows.stop, axis=-2)
    return _spline(tall, width, 0, width, axis=-1)


def _spline(plane: Plane, edge: int, start: int, stop: int, axis: int) -> Plane:
    size = plane.shape[axis]
    if size == edge:
        return plane.take(np.arange(start, stop), axis=axis)
    place = (np.arange(start, stop) + 0.5) * (size / edge) - 0.5
    first = np.floor(place).astype(np.intp)
    part = place - first
    total: Plane | None = None
    for tap, weight in enumerate(_catmull_rom(part)):
        cells = plane.take(np.clip(first + tap - 1, 0, size - 1), axis=axis)
        cells *= weight[:, None] if axis == -2 else weight
        total = cells if total is None else np.add(total, cells, out=total)
    assert total is not None, "there are four taps"
    return total


def _catmull_rom(t: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[Plane]:
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    return [weight.astype(np.float32) for weight in weights]


def blur(plane: Plane, sigma: float) -> Plane:
    """Return the plane (..., h, w) blurred by three box filters, near enough a Gaussian of `sigma` pixels."""
    for axis in (-2, -1):
        for _ in range(3):
            plane = _box(plane, sigma, axis)
    return plane


def _box(plane: Plane, sigma: float, axis: int) -> Plane:
    # A box of 2 * whole + 1 pixels and two ends of weight `part`, so that its variance is a third of the Gaussian's.
    whole = int((math.sqrt(4 * sigma * sigma + 1) - 1) / 2)
    variance, width = sigma * sigma / 3, 2 * whole + 1
    part = (variance * width - whole * (whole + 1) * width / 3) / (2 * ((whole + 1) ** 2 - variance))
    size = plane.shape[axis]
    places = np.clip(np.arange(-whole - 2, size + whole + 1), 0, size - 1)
    sums = np.cumsum(plane.take(places, axis=axis), axis=axis, dtype=np.float64)
    moved = np.moveaxis(sums, axis, -1)
    inner = moved[..., 2 * whole + 2 :][..., :size] - moved[..., 1 : size + 1]
    outer = moved[..., 2 * whole + 3 :] - moved[..., :size]
    mean = (inner + part * (outer - inner)) / (width + 2 * part)
    return np.moveaxis(mean, -1, axis).astype(np.float32)
