"""A part of a picture, with coordinates that know nothing of pixels, and the few marks that everything is made of.

`y` runs from 0 (top) to 1 (bottom), `x` from -aspect/2 to aspect/2: one unit is the picture's height.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.engine.colour import Colour, column
from gateway.engine.interface import Plane


@dataclass(frozen=True, slots=True)
class Canvas:
    """Columns and rows of a picture and their paint, which is changed in place."""

    x: Plane
    """Of shape (w,), the middle of each pixel."""
    y: Plane
    """Of shape (h,)."""
    pixel: float
    """The edge of a pixel; a mark's rim is so soft."""
    paint: Plane
    """RGB planes of shape (3, h, w), 0..1 though light may go beyond."""

    def cut(self, left: float = -99.0, right: float = 99.0, top: float = -99.0, bottom: float = 99.0) -> "Canvas":
        """Return the part between these coordinates, perhaps empty; it shares its paint with this canvas."""
        x = slice(*np.searchsorted(self.x, (left - self.pixel, right + self.pixel)).tolist())
        y = slice(*np.searchsorted(self.y, (top - self.pixel, bottom + self.pixel)).tolist())
        return Canvas(self.x[x], self.y[y], self.pixel, self.paint[:, y, x])

    @property
    def empty(self) -> bool:
        """Whether no pixel lies on it."""
        return not (self.x.size and self.y.size)

    def lay(self, cover: Plane | float, colour: Colour | Plane) -> None:
        """Lay paint where `cover` (h, w) is above 0; the colour may be planes (3, h, w)."""
        paint = column(colour) if isinstance(colour, tuple) else colour
        self.paint[...] += cover * (paint - self.paint)

    def shine(self, strength: Plane, colour: Colour) -> None:
        """Add light, as much as `strength` (h, w) says, less where it is bright already."""
        self.paint[...] += strength * column(colour) * (1.15 - np.minimum(self.paint, 1.15))

    def soft(self, inside: Plane) -> Plane:
        """Return the cover of a shape from the distance to its rim (positive inside)."""
        cover: Plane = np.clip(inside / self.pixel + 0.5, 0, 1)
        return cover

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Lay a disc."""
        part = self.cut(x - radius, x + radius, y - radius, y + radius)
        if not part.empty:
            part.lay(part.soft(radius - part.distance(x, y)), colour)

    def distance(self, x: float, y: float, flat: float = 1.0) -> Plane:
        """Return the distances (h, w) to a point; `flat` > 1 makes circles into lying ellipses."""
        gaps: Plane = np.hypot((self.x - x) / flat, (self.y - y)[:, None])
        return gaps

    def convex(self, corners: Sequence[tuple[float, float]], colour: Colour | Plane) -> None:
        """Lay a convex polygon, its corners clockwise as seen."""
        part = self.cut_around(corners)
        if not part.empty:
            part.lay(part.within(corners), colour)

    def cut_around(self, corners: Sequence[tuple[float, float]]) -> "Canvas":
        """Return the part that holds all these points."""
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        return self.cut(min(xs), max(xs), min(ys), max(ys))

    def within(self, corners: Sequence[tuple[float, float]]) -> Plane:
        """Return the cover of a convex polygon, its corners clockwise as seen."""
        inside: Plane | None = None
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            length = math.hypot(x2 - x1, y2 - y1)
            across, down = (x2 - x1) / length, (y2 - y1) / length
            side: Plane = np.subtract((self.y - y1)[:, None] * across, (self.x - x1) * down, dtype=np.float32)
            inside = side if inside is None else np.minimum(inside, side)
        assert inside is not None, "a polygon has corners"
        return self.soft(inside)

    def stroke(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        widths: tuple[float, float],
        colour: Colour,
    ) -> None:
        """Lay a straight stroke with round ends, whose half width goes from the first of `widths` to the second."""
        wide = max(widths)
        (x1, y1), (x2, y2) = start, end
        part = self.cut(min(x1, x2) - wide, max(x1, x2) + wide, min(y1, y2) - wide, max(y1, y2) + wide)
        if part.empty:
            return
        dx, dy = x2 - x1, y2 - y1
        along = ((part.x - x1) * dx + (part.y - y1)[:, None] * dy) / max(1e-9, dx * dx + dy * dy)
        along = np.clip(along, 0, 1)
        gap: Plane = np.hypot(part.x - x1 - along * dx, (part.y - y1)[:, None] - along * dy)
        # A stroke thinner than a pixel is as pale as it is thin.
        pale = min(1.0, 2 * wide / self.pixel)
        half: Plane = np.add(widths[0], along * (widths[1] - widths[0]), dtype=np.float32)
        part.lay(part.soft(half - gap) * pale, colour)

    def below(self, edge: Plane, colour: Colour | Plane) -> None:
        """Lay everything below the line `edge` (w,)."""
        self.lay(self.soft(self.y[:, None] - edge), colour)


Layer = Callable[[Canvas], None]
"""Paints one thing; all chance was drawn when it was made, so that every canvas shows the same thing."""
