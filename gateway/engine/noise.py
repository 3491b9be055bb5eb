"""Smooth noise that depends on coordinates alone, so that any part of a picture can be drawn at any resolution."""

from collections.abc import Callable

import numpy as np

from gateway.engine.interface import Plane

_CELLS = 64
"""Edge of the lattice; the noise repeats after so many units."""


def smoothstep(low: float, high: float, value: Plane) -> Plane:
    """Return 0 below `low`, 1 above `high`, and a smooth rise between them; falls where `high` < `low`."""
    ratio = np.clip((value - low) / (high - low), 0, 1)
    curve: Plane = ratio * ratio * (3 - 2 * ratio)
    return curve


class Noise:
    """Fractal value noise in 0..1, mostly within 0.2..0.8."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._lattice: Plane = draw.random((_CELLS, _CELLS), dtype=np.float32)

    def line(self, x: Plane, octaves: int = 4) -> Plane:
        """Return the noise along a line, of the shape of `x`."""
        return _octaves(octaves, lambda scale, shift: self._line(x * scale + shift, int(shift)))

    def grid(self, x: Plane, y: Plane, octaves: int = 4) -> Plane:
        """Return the noise at every crossing of columns `x` (w,) and rows `y` (h,), of shape (h, w)."""
        return _octaves(octaves, lambda scale, shift: self._grid(x * scale + shift, y * scale + shift))

    def at(self, x: Plane, y: Plane, octaves: int = 4) -> Plane:
        """Return the noise at points, of the common shape of `x` and `y`; ten times dearer than `grid`."""
        return _octaves(octaves, lambda scale, shift: self._at(x * scale + shift, y * scale + shift))

    def _line(self, x: Plane, row: int) -> Plane:
        cells = self._lattice[row % _CELLS]
        left, part = _split(x)
        first = cells[left]
        values: Plane = first + part * (cells[(left + 1) % _CELLS] - first)
        return values

    def _grid(self, x: Plane, y: Plane) -> Plane:
        top, down = _split(y)
        left, right = _split(x)
        upper = self._lattice[top]
        rows = upper + down[:, None] * (self._lattice[(top + 1) % _CELLS] - upper)
        first = rows[:, left]
        return first + right * (rows[:, (left + 1) % _CELLS] - first)

    def _at(self, x: Plane, y: Plane) -> Plane:
        left, right = _split(x)
        top, down = _split(y)
        beside, below = (left + 1) % _CELLS, (top + 1) % _CELLS * _CELLS
        top = top * _CELLS
        flat = self._lattice.ravel()
        upper = flat[top + left]
        upper = upper + right * (flat[top + beside] - upper)
        lower = flat[below + left]
        lower = lower + right * (flat[below + beside] - lower)
        values: Plane = upper + down * (lower - upper)
        return values


def _split(value: Plane) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.intp]], Plane]:
    floor = np.floor(value)
    part = value - floor
    return floor.astype(np.intp) % _CELLS, part * part * (3 - 2 * part)


def _octaves(count: int, layer: Callable[[float, float], Plane]) -> Plane:
    # 2.03 instead of 2 keeps the lattices of two octaves from lying on each other.
    total = layer(1.0, 0.0)
    weight, sum_of_weights = 1.0, 1.0
    for octave in range(1, count):
        weight /= 2
        sum_of_weights += weight
        total = total + weight * layer(2.03**octave, 17.0 * octave)
    return total / sum_of_weights
