"""From what is asked to what the model needs: the canvas, the scene on it, and the times of the steps."""

import numpy as np

from gateway.engine.denoise import backdrop, sampler
from gateway.engine.denoise.adapted import meant
from gateway.engine.denoise.masks import Box, bounds, squarer
from gateway.engine.interface import Colour, Field, Painting, Plane, Scene, Sheet, Sketcher, Sketches, Wish
from gateway.engine.paint import edges
from gateway.engine.paint.frame import Frame, frame_for, largest, mean

_WHITE = (1.0, 1.0, 1.0)
_CHOICE = 1
"""Tells the seed's choice from its noise."""


def guidance_scale(guidance: float) -> float:
    """Return how far a guess goes from the one without a sketch (0) to the one with it (1), and beyond.

    Users think in the scale of large models, where 7 is usual and 30 the most; this model's colours break from 3 on, so
    that 1..30 becomes 1..3.4, and 7 becomes 1.5. Below 1 the words count less in choosing the sketch, and at 0 not at
    all; whichever it is, it is followed: without one the network draws coloured shapes and nothing more.
    """
    return 1 + max(0.0, guidance - 1) / 12


def line_weight(weight: float) -> float:
    """Return how strong lines (0..1) are made for an edge weight of 0..2: 1 and more is all that there is."""
    return min(1.0, weight)


class Plan:
    """All that the steps of one painting share."""

    def __init__(self, painting: Painting, sketcher: Sketcher) -> None:
        self.frame = frame_for(painting.height, painting.width, tiling=painting.tiling)
        height, width = self.frame.size
        # All of the noise, and no pixel to keep: nothing would be seen of the init image.
        ignored = painting.init is None or (painting.strength == 1 and painting.mask is None)
        self.strength = 1.0 if ignored else painting.strength
        self.known = None if ignored else _sheet(painting, self.frame)
        self.times = sampler.times(painting.steps, self.strength)
        self.noise = sampler.noise(painting.seed, height, width)
        keep = None if ignored else _keep(painting, self.frame)
        wish = Wish(
            painting.prompt,
            painting.seed,
            height,
            width,
            painting.negative_prompt,
            painting.guidance,
            self._place(keep),
            painting.tiling,
            painting.reference,
        )
        sketches = sketcher.sketch(wish)
        self.ground: Colour = sketches.ground or _WHITE
        self.scene = Scene(
            sketches,
            _chosen(sketches, painting.seed),
            guidance_scale(painting.guidance),
            whole=self.known is not None and not painting.transparent,
            known=self.known,
            strength=self.strength,
            keep=keep,
            edges=_lines(painting, self.frame),
            tiling=painting.tiling,
        )

    def _place(self, keep: Plane | None) -> Box | None:
        """Where the new figure belongs: in the mask's hole, in the place of the init's figure, or anywhere in sight."""
        if keep is not None:
            place = bounds(keep < 1)
        else:
            found = None if self.known is None else backdrop.figure(self.known)
            place = None if found is None else bounds(found[0])
            place = place and squarer(place, self.frame.box or (0, 0, *self.frame.size))
        return place or self.frame.box

    def start(self) -> Field:
        """Return the field before the first step: noise, or under noise what the init image is to become.

        Under it the init image itself would show through for some steps, and contradict what they go to.
        """
        if self.known is None:
            return sampler.noised(np.zeros_like(self.noise), self.noise, self.times[0])
        clean = meant(self.scene) if self.scene.whole else 2 * self.known - 1
        return sampler.noised(clean, self.noise, self.times[0])


def _sheet(painting: Painting, frame: Frame) -> Sheet:
    """The init image on the canvas, opaque."""
    assert painting.init is not None, "asked only with an init image"
    planes = mean(painting.init, frame).transpose(2, 0, 1) / np.float32(255)
    return np.concatenate([planes, np.ones_like(planes[:1])])


def _keep(painting: Painting, frame: Frame) -> Plane | None:
    """The cells that stay: those that the mask does not even touch, so that no seam of old pixels is left."""
    if painting.mask is None:
        return None
    return np.where(largest(painting.mask, frame) == 0, np.float32(1), np.float32(0))


def _lines(painting: Painting, frame: Frame) -> Plane | None:
    weight = line_weight(painting.edge_weight)
    if painting.edges is None or weight == 0:
        return None
    lines = edges.lines(painting.edges, frame)
    return np.multiply(lines, weight, dtype=np.float32)


def _chosen(sketches: Sketches, seed: int) -> int:
    """Which sketch the seed takes, by their logits."""
    likely = np.exp(sketches.logits.astype(np.float64) - sketches.logits.max())
    sums = np.cumsum(likely)
    draw = np.random.Generator(np.random.PCG64([seed, _CHOICE])).random()
    return min(int(np.searchsorted(sums, draw * sums[-1], side="right")), len(likely) - 1)
