"""Noise that depends on coordinates alone."""

import numpy as np

from gateway.engine.noise import Noise, smoothstep

X = np.linspace(-3, 5, 40, dtype=np.float32)
Y = np.linspace(-70, 70, 30, dtype=np.float32)


def test_noise_is_the_same_over_a_grid_as_at_its_points() -> None:
    """The quick way and the general one agree."""
    noise = Noise(np.random.default_rng(2))
    points = noise.at(X + 0 * Y[:, None], Y[:, None] + 0 * X)
    assert np.allclose(noise.grid(X, Y), points, atol=1e-4)


def test_noise_stays_between_nothing_and_one() -> None:
    """Its mean is about a half."""
    values = Noise(np.random.default_rng(2)).grid(X * 9, Y)
    assert values.min() >= 0
    assert values.max() <= 1
    assert 0.4 < values.mean() < 0.6


def test_noise_is_of_single_precision() -> None:
    """Doubles would cost twice the time and memory."""
    noise = Noise(np.random.default_rng(2))
    kinds = {values.dtype for values in (noise.line(X), noise.grid(X, Y), noise.at(X, X), smoothstep(0.0, 1.0, X))}
    assert kinds == {np.dtype(np.float32)}


def test_smoothstep_falls_where_its_ends_are_swapped() -> None:
    """It is 1 at the first end then."""
    assert smoothstep(2.0, 1.0, np.array([0.5, 1.5, 2.5], np.float32)).tolist() == [1.0, 0.5, 0.0]
