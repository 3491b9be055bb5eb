"""The denoiser that needs no training: the exact mean over a few sketches, given the noise, in windows.

Were the sketches all pictures there are, the clean picture under a noisy one would be their mean, each weighted by how
well it explains the noise. The window that explains shrinks from the whole picture to some cells as the noise falls, so
that parts may come from different sketches. It is the fallback of the network, and what the network is measured by.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from gateway.engine.denoise import sampler
from gateway.engine.denoise.adapted import adapted
from gateway.engine.denoise.sampler import rates
from gateway.engine.denoise.sums import box_mean
from gateway.engine.interface import Field, Plane, Scene

_LEAST_RADIUS: Final = 3
"""Cells: the window at the end is 7 by 7."""
_GLOBAL_UNTIL: Final = 0.6
"""The time down to which the window is the whole picture."""
_EVIDENCE: Final = 24.0
"""Cells: how many independent ones a window counts for. All of them would decide at the first step."""
_CHOSEN: Final = 4.0
"""The seed's choice among the sketches, in logits: without it every seed would find the likeliest one."""
_DECIDED: Final = 30.0
"""Logits by which it wins at the first step, per 1 of strength below that."""
_CERTAIN: Final = 60.0
"""Logits beyond which nothing changes."""
_LEAST_TIME: Final = 0.02
_NEGLIGIBLE: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    fields: list[Field]
    logits: list[float]
    init: Field | None = None
    """The init image, where the picture begins with one."""
    advantage: float = 0
    """Its logits over the chosen sketch."""


class ClosedForm:
    """A `Guesser` without weights. Holds what it made of the scene it was last asked about, and nothing else."""

    name: Literal["network", "closed_form"] = "closed_form"

    def __init__(self) -> None:
        self._last: tuple[Scene, _Candidates] | None = None

    def guess(self, noisy: Field, time: float, scene: Scene) -> Field:
        """Return the clean picture that is believed to be under the noise."""
        if self._last is None or self._last[0] is not scene:
            self._last = (scene, _candidates(scene))
        candidates = self._last[1]
        # At 0 the noise that explains a difference would be none.
        time = max(time, _LEAST_TIME)
        guess = _mean(candidates, noisy, time, tiling=scene.tiling)
        if candidates.init is not None:
            guess += np.float32(_init_part(candidates, candidates.init, scene.chosen, noisy, time)) * (
                candidates.init - guess
            )
        if scene.keep is not None and scene.known is not None:
            known = 2 * scene.known - 1
            guess = known + (1 - scene.keep) * (guess - known)
        return np.clip(guess, -1, 1)


def _mean(candidates: _Candidates, noisy: Field, time: float, *, tiling: bool) -> Field:
    """Return the mean of the sketches, cell by cell weighted by how well they explain the noise around it."""
    picture, grain = rates(time)
    scale = _EVIDENCE / (2 * grain * grain)
    radius = window(time, max(noisy.shape))
    scores = np.empty((len(candidates.fields), *noisy.shape[1:]), np.float32)
    for score, field, logit in zip(scores, candidates.fields, candidates.logits, strict=True):
        wrong = _squares(noisy - np.float32(picture) * field)
        if radius is None:
            score[...] = logit - scale * float(wrong.mean(dtype=np.float64))
        else:
            score[...] = np.float32(logit) - np.float32(scale) * box_mean(wrong, radius, tiling=tiling)
    weights = np.exp(scores - scores.max(axis=0))
    weights /= weights.sum(axis=0)
    mean = np.zeros_like(noisy)
    for weight, field in zip(weights, candidates.fields, strict=True):
        if weight.max() > _NEGLIGIBLE:
            mean += weight * field
    return mean


def _init_part(candidates: _Candidates, init: Field, chosen: int, noisy: Field, time: float) -> float:
    """Return how much (0..1) the picture is believed to be the init image still, and not the chosen sketch.

    For all of the picture at once: half a dog and half a cat are neither.
    """
    picture, grain = rates(time)
    against, for_it = (
        float(_squares(noisy - np.float32(picture) * field).mean(dtype=np.float64))
        for field in (candidates.fields[chosen], init)
    )
    logit = candidates.advantage + _EVIDENCE * (against - for_it) / (2 * grain * grain)
    return 1 / (1 + math.exp(-min(max(logit, -_CERTAIN), _CERTAIN)))


def _squares(field: Field) -> Plane:
    squares: Plane = np.square(field).sum(axis=0)
    return squares


def window(time: float, edge: int) -> int | None:
    """Return the radius of the window at a time, in cells; None = the whole picture."""
    if time >= _GLOBAL_UNTIL:
        return None
    return round(_LEAST_RADIUS * math.pow(edge / 2 / _LEAST_RADIUS, time / _GLOBAL_UNTIL))


def _candidates(scene: Scene) -> _Candidates:
    found = adapted(scene)
    logits = scene.sketches.logits - scene.sketches.logits.max()
    scores = [float(logit) + _CHOSEN * (index == scene.chosen) for index, logit in enumerate(logits)]
    if found.init is None:
        return _Candidates(found.fields, scores)
    apart = float(_squares(found.fields[scene.chosen] - found.init).mean(dtype=np.float64))
    return _Candidates(found.fields, scores, found.init, _advantage(scene, apart, found.yields))


def _advantage(scene: Scene, apart: float, yields: float) -> float:
    """Return the logits that the init image gets over the sketch; `apart` is the mean square between them.

    What is seen of it through the first noise speaks for it, and the more so the less the two are alike; this is taken
    off, so that the strength decides alone. As the noise falls, what has won explains it better and better.
    """
    picture, grain = rates(sampler.FIRST_TIME * scene.strength)
    return _DECIDED * (yields - scene.strength) - _EVIDENCE * picture**2 / (2 * grain**2) * apart
