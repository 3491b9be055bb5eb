"""The denoiser that paints: words become a scene, noise becomes a picture of it, and that is enlarged crisply."""

from typing import Final

import numpy as np

from gateway.engine.denoise import sampler
from gateway.engine.interface import Guesser, Latent, Painting, Pixels, Sheet, Sketcher
from gateway.engine.paint.finish import Finish, as_pixels, laid
from gateway.engine.paint.plan import Plan

_BAND: Final = 64
"""Rows of pixels that are enlarged at once, to bound the memory."""


class Painter:
    """A `Denoiser` over icons.

    Holds the plan of the painting it was last asked for, and nothing else: paintings may be interleaved, which is slow.
    """

    def __init__(self, sketcher: Sketcher, guesser: Guesser) -> None:
        self._sketcher, self._guesser = sketcher, guesser
        self._last: tuple[Painting, Plan] | None = None

    def begin(self, painting: Painting) -> Latent:
        """Return the latent before step 1: noise, or the init image under noise."""
        return Latent(self._plan(painting).start())

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        """Return the latent after `step` (1 to `painting.steps`) and its preview, RGB of what is seen of the canvas."""
        plan = self._plan(painting)
        before, now, after = plan.times[max(step - 2, 0)], plan.times[step - 1], plan.times[step]
        # At strength 0 there is no noise to take away.
        if now > 0:
            guess = self._guesser.guess(latent.noisy, now, plan.scene)
            latent = sampler.advance(latent, guess, before, now, after)
        return latent, _preview(plan, latent)

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        """Return the picture in its asked size, RGB or RGBA, from the latent after the last step."""
        plan = self._plan(painting)
        finish = Finish(painting, plan, _sheet(latent))
        picture = np.empty((painting.height, painting.width, 4 if painting.transparent else 3), np.uint8)
        for top in range(0, painting.height, _BAND):
            rows = slice(top, min(top + _BAND, painting.height))
            picture[rows] = finish.rows(rows)
        return picture

    def _plan(self, painting: Painting) -> Plan:
        if self._last is None or self._last[0] is not painting:
            self._last = (painting, Plan(painting, self._sketcher))
        return self._last[1]


def _sheet(latent: Latent) -> Sheet:
    return np.clip((latent.noisy + 1) / 2, 0, 1)


def _preview(plan: Plan, latent: Latent) -> Pixels:
    """The latent itself, so that one sees the picture come out of the noise."""
    shown = laid(_sheet(latent), plan)
    if plan.scene.keep is not None and plan.known is not None:
        shown += plan.scene.keep * (plan.known[:3] - shown)
    return as_pixels(shown[:, *plan.frame.visible])
