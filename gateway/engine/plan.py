"""The picture that the steps go to, at any resolution: the scene, the init image in its mood, and the mask's seam."""

from dataclasses import dataclass

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.enlarge import blur, enlarge, shrink
from gateway.engine.interface import Painting, Pixels, Plane
from gateway.engine.noise import Noise, smoothstep
from gateway.engine.scene import compose

_LONG_EDGE = 128
"""Pixels of a latent's long edge: a step on it takes a few milliseconds."""
BAND = 128
"""Rows of the finished picture that are painted at a time: that bounds memory, 2048 x 2048 takes some 60 MB."""


@dataclass(frozen=True, slots=True)
class _Seam:
    """What the kept part of an inpainting tells the rest, at the latent's size."""

    nearness: Plane
    """1 beside kept pixels, 0 far from them."""
    colour: Plane
    """The kept pixels' colours, run into the hole."""


class Plan:
    """What one painting shall look like; a pure function of the painting.

    Pictures are planes of shape (3, h, w) in -1..1.
    """

    def __init__(self, painting: Painting) -> None:
        self._painting = painting
        longest = max(painting.width, painting.height)
        edge = min(_LONG_EDGE, longest)
        self.size = (max(1, painting.height * edge // longest), max(1, painting.width * edge // longest))
        self.steps = painting.steps
        self.strength = painting.strength if painting.init is not None else 1.0
        self._layers: list[Layer] = compose(painting.prompt, painting.seed, painting.width / painting.height)
        self._dissolve = Noise(np.random.Generator(np.random.PCG64([painting.seed, 77])))
        self.init = None if painting.init is None else shrink_picture(painting.init, *self.size)
        self.mask = None if painting.mask is None else shrink(painting.mask, *self.size) / 255
        scene = self._scene(*self.size, slice(0, self.size[0]))
        self._grade = self._graded_to(scene)
        self._seam = self._run_in()
        self.small = self._merged(scene, self.init, *self.size, slice(0, self.size[0]))

    def rows(self, rows: slice) -> Plane:
        """Return these rows of the picture in its full size."""
        height, width = self._painting.height, self._painting.width
        init = None if self._painting.init is None else as_planes(self._painting.init[rows])
        return self._merged(self._scene(height, width, rows), init, height, width, rows)

    def _scene(self, height: int, width: int, rows: slice) -> Plane:
        x, y = _middles(slice(0, width), height) - width / height / 2, _middles(rows, height)
        canvas = Canvas(x, y, 1 / height, np.zeros((3, y.size, x.size), np.float32))
        for layer in self._layers:
            layer(canvas)
        return np.clip(canvas.paint, 0, 1) * 2 - 1

    def _graded_to(self, scene: Plane) -> tuple[Plane, Plane]:
        """The factor and the shift, per channel, that bring the init image's colours near the scene's."""
        if self.init is None:
            return np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32)
        spread = (scene.std(axis=(1, 2)) + 0.05) / (self.init.std(axis=(1, 2)) + 0.05)
        factor = np.clip(spread, 0.7, 1.4)[:, None, None].astype(np.float32)
        shift = scene.mean(axis=(1, 2), keepdims=True) - self.init.mean(axis=(1, 2), keepdims=True) * factor
        return factor, shift

    def _run_in(self) -> _Seam | None:
        if self.init is None or self.mask is None:
            return None
        kept: Plane = np.subtract(1, self.mask, dtype=np.float32)
        near, wide = blur(kept, 2.0), blur(kept, 9.0) + 1e-4
        colour: Plane = blur(self.init * kept, 9.0) / wide
        return _Seam(np.clip(near * 1.7, 0, 1), colour)

    def _merged(self, scene: Plane, init: Plane | None, height: int, width: int, rows: slice) -> Plane:
        if init is None:
            return scene
        # A little strength gives the init the scene's colours; more lets the scene come through, patch by patch.
        mood = min(1.0, self.strength * 1.4) * 0.7
        factor, shift = self._grade
        toned = init + mood * (init * factor + shift - init)
        merged: Plane = toned + self._share(height, width, rows) * (scene - toned)
        if self._seam is None:
            return merged
        nearness, colour = (enlarge(plane, height, width, rows) for plane in (self._seam.nearness, self._seam.colour))
        return merged + np.clip(nearness, 0, 1) * 0.75 * self.strength * (colour - merged)

    def _share(self, height: int, width: int, rows: slice) -> Plane:
        """How much of the scene shows, of shape (h, w): 0 for strength 0, 1 for strength 1."""
        x, y = _middles(slice(0, width), height), _middles(rows, height)
        patches = np.clip(self._dissolve.grid(5 * x, 5 * y, 4) * 1.6 - 0.3, 0, 1)
        # Below a strength of 0.2 only the colours change; at 1 no patch of the init is left.
        return smoothstep(0.0, 1.0, 2.5 * max(0.0, self.strength - 0.2) - patches)


def _middles(cells: slice, edge: int) -> Plane:
    """The middles of pixels, where `edge` of them make one unit."""
    return ((np.arange(cells.start, cells.stop) + 0.5) / edge).astype(np.float32)


def as_planes(pixels: Pixels) -> Plane:
    """Return RGB pixels (h, w, 3) as planes (3, h, w) in -1..1."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / 127.5 - 1


def as_pixels(planes: Plane) -> Pixels:
    """Return planes (3, h, w) in -1..1 as RGB pixels (h, w, 3)."""
    scaled = np.clip(np.rint((planes + 1) * 127.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))


def shrink_picture(pixels: Pixels, height: int, width: int) -> Plane:
    """Return RGB pixels as smaller planes in -1..1."""
    return np.ascontiguousarray(shrink(pixels, height, width).transpose(2, 0, 1)) / 127.5 - 1
