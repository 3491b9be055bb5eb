"""The noise process and the way back: at time t a latent is `cos(pi t / 2) * clean + sin(pi t / 2) * noise`.

The way back is DPM-Solver++(2M) on guesses of the clean picture, Lu et al. 2022, https://arxiv.org/abs/2211.01095,
deterministic: the seed's noise is the only noise.
"""

import math
from typing import Final

import numpy as np

from gateway.engine.interface import Field, Latent

FIRST_TIME: Final = 0.996
"""Where a picture from noise alone starts; at 1 the solver would divide by nothing."""
_BEND: Final = 1.25
"""1 would space the times evenly; with more the viewer waits less for a picture to show through the noise."""


def rates(time: float) -> tuple[float, float]:
    """Return the part of the picture and the part of the noise at a time in 0..1; their squares sum to 1."""
    return math.cos(math.pi / 2 * time), math.sin(math.pi / 2 * time)


def times(steps: int, strength: float = 1.0) -> tuple[float, ...]:
    """Return the `steps` + 1 times from the start to 0, somewhat closer at the end.

    With an init image `strength` (0..1) says how much noise it is put under, not how many steps are left out: every
    picture takes as many steps as were asked for.
    """
    return tuple(FIRST_TIME * strength * math.pow((steps - step) / steps, _BEND) for step in range(steps + 1))


def noise(seed: int, height: int, width: int) -> Field:
    """Return the seed's noise, of shape (4, height, width): mean 0, variance 1, the same bits everywhere."""
    draw = np.random.Generator(np.random.PCG64([seed, height, width]))
    return draw.standard_normal((4, height, width), dtype=np.float32)


def noised(clean: Field, noise: Field, time: float) -> Field:
    """Return the picture under noise."""
    picture, grain = rates(time)
    field: Field = np.float32(picture) * clean + np.float32(grain) * noise
    return field


def advance(latent: Latent, guess: Field, before: float, now: float, after: float) -> Latent:
    """Return the latent at `after` (>= 0, < now), from the one at `now` and the clean picture guessed in it.

    `before` is the time of `latent.guess`, and of no account without one.
    """
    picture, grain = rates(now)
    next_picture, next_grain = rates(after)
    aim = guess
    # Towards 0 the log of the signal-to-noise ratio goes to infinity, and extrapolating along it means nothing.
    if latent.guess is not None and after > 0:
        share = _half_ratio(before, now, after)
        aim = guess + np.float32(share) * (guess - latent.guess)
    kept = next_grain / grain
    noisy: Field = np.float32(kept) * latent.noisy + np.float32(next_picture - kept * picture) * aim
    return Latent(noisy, guess)


def _half_ratio(before: float, now: float, after: float) -> float:
    """How far the second-order term looks ahead: half the coming step over the last one, in log signal-to-noise."""
    return (_log_ratio(after) - _log_ratio(now)) / (_log_ratio(now) - _log_ratio(before)) / 2


def _log_ratio(time: float) -> float:
    picture, grain = rates(time)
    return math.log(picture / grain)
