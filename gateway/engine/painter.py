"""The procedural denoiser: goes from noise to a planned picture as a diffusion model's sampler would.

At time t (1 = noise alone, 0 = the picture alone) a latent is `(1 - t) * picture + t * noise`. A model would guess the
picture from the latent; the painter knows it, and blurs it as such a guess is blurred that long before the end.
"""

import math

import numpy as np

from gateway.engine.enlarge import blur, enlarge
from gateway.engine.interface import Latent, Painting, Pixels, Plane
from gateway.engine.plan import BAND, Plan, as_pixels

_LEAST_TIME = 0.008
"""The noise that is left after the last step, as grain: one level of 255."""
_FRESH = 0.35
"""The part of the noise that each step draws anew, so that pictures of different steps differ."""


class Painter:
    """A `Denoiser` that draws what it has words for, and flows of colour for everything else.

    Holds the plan of the painting it was last asked for, and nothing else: paintings may be interleaved, which is slow.
    """

    def __init__(self) -> None:
        self._last: tuple[Painting, Plan] | None = None

    def begin(self, painting: Painting) -> Latent:
        """Return the latent before step 1: noise, or the init image under noise."""
        plan = self._plan(painting)
        if plan.init is None:
            return _noise(painting, 0, plan.size)
        return plan.init + _time(plan, 0) * (_noise(painting, 0, plan.size) - plan.init)

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        """Return the latent after `step` (1 to `painting.steps`) and its preview, RGB of the latent's edges."""
        plan = self._plan(painting)
        before, after = _time(plan, step - 1), _time(plan, step)
        if before > 0:
            guess = _guess(plan.small, before)
            noise = (latent - (1 - before) * guess) / before
            noise = (1 - _FRESH**2) ** 0.5 * noise + _FRESH * _noise(painting, step, plan.size)
            latent = (1 - after) * guess + after * noise
        if plan.mask is not None and plan.init is not None:
            latent = plan.init + plan.mask * (latent - plan.init)
        return latent, as_pixels(latent)

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        """Return the picture in its asked size, from the latent after the last step."""
        plan = self._plan(painting)
        sharp = 1 - _time(plan, painting.steps - 1)
        picture = np.empty((painting.height, painting.width, 3), np.uint8)
        residue = latent - sharp * plan.small
        for top in range(0, painting.height, BAND):
            rows = slice(top, min(top + BAND, painting.height))
            large = enlarge(residue, painting.height, painting.width, rows)
            picture[rows] = _kept(painting, rows, large + sharp * plan.rows(rows))
        return picture

    def _plan(self, painting: Painting) -> Plan:
        if self._last is None or self._last[0] is not painting:
            self._last = (painting, Plan(painting))
        return self._last[1]


def _time(plan: Plan, step: int) -> float:
    """The time after a step: falls from the strength to almost 0, faster at first."""
    steps = plan.steps
    return plan.strength * max(_LEAST_TIME, math.pow(1 - step / steps, 1.8))


def _noise(painting: Painting, step: int, size: tuple[int, int]) -> Plane:
    seeds = [painting.seed, painting.steps, step]
    draw = np.random.Generator(np.random.PCG64(seeds))
    return draw.standard_normal((3, *size), dtype=np.float32)


def _guess(picture: Plane, time: float) -> Plane:
    soft = blur(picture, 0.4 + 11 * time**1.5)
    return picture + time * (soft - picture)


def _kept(painting: Painting, rows: slice, planes: Plane) -> Pixels:
    """The rows as pixels; those of the init, byte by byte, where the mask is black."""
    pixels = as_pixels(planes)
    if painting.mask is None or painting.init is None:
        return pixels
    part = painting.mask[rows, :, None].astype(np.float32) / 255
    init = painting.init[rows]
    blend = np.rint(init + part * (pixels.astype(np.float32) - init)).astype(np.uint8)
    return np.where(part == 0, init, blend)
