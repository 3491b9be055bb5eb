"""The noise process and the way back."""

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.denoise import sampler
from gateway.engine.interface import Field, Latent

CLEAN = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16)).astype(np.float32)


def way_back(clean: Field, steps: int, strength: float) -> list[Latent]:
    """Go from noise to the end with guesses that are right at once."""
    times = sampler.times(steps, strength)
    latent = Latent(sampler.noised(clean, sampler.noise(3, *clean.shape[1:]), times[0]))
    latents = [latent]
    for step in range(1, steps + 1):
        latent = sampler.advance(latent, clean, times[max(step - 2, 0)], times[step - 1], times[step])
        latents.append(latent)
    return latents


@given(st.integers(1, 150), st.floats(0.05, 1))
def test_sampler_ends_exactly_at_a_perfect_guess(steps: int, strength: float) -> None:
    """Whatever the number of steps and the start, no noise is left."""
    assert np.array_equal(way_back(CLEAN, steps, strength)[-1].noisy, CLEAN)


@pytest.mark.parametrize("steps", [1, 2, 20, 150])
def test_sampler_stays_on_the_noise_process_with_a_perfect_guess(steps: int) -> None:
    """Between the steps a latent is what the picture would be under the seed's noise at that time."""
    times = sampler.times(steps)
    noise = sampler.noise(3, 16, 16)
    for latent, time in zip(way_back(CLEAN, steps, 1), times, strict=True):
        assert np.allclose(latent.noisy, sampler.noised(CLEAN, noise, time), atol=1e-5)


def test_second_order_comes_nearer_than_the_first() -> None:
    """Of pictures of a known variance the best guess and the exact way back are known."""
    spread = 0.5

    def variance(time: float) -> float:
        picture, grain = sampler.rates(time)
        return picture**2 * spread**2 + grain**2

    def wrong(*, first_order: bool) -> float:
        times = sampler.times(12)
        start = sampler.noise(3, 16, 16)
        latent = Latent(start)
        for step, (now, after) in enumerate(pairwise(times[:-1])):
            guess = np.float32(sampler.rates(now)[0] * spread**2 / variance(now)) * latent.noisy
            known = Latent(latent.noisy) if first_order else latent
            latent = sampler.advance(known, guess, times[max(step - 1, 0)], now, after)
        right = start * np.sqrt(variance(times[-2]) / variance(times[0]))
        return float(np.abs(latent.noisy - right).mean())

    assert wrong(first_order=False) < wrong(first_order=True) / 3


@given(st.integers(1, 150), st.floats(0, 1))
def test_times_fall_from_the_strength_to_nothing(steps: int, strength: float) -> None:
    """Every picture takes as many steps as were asked for."""
    times = sampler.times(steps, strength)
    assert len(times) == steps + 1
    assert times[0] == sampler.FIRST_TIME * strength
    assert times[-1] == 0
    assert all(now > after for now, after in pairwise(times)) or strength < 1e-200


def test_rates_keep_the_variance() -> None:
    """A picture of variance 1 has variance 1 at every time, and noise comes in as the picture goes."""
    for time in np.linspace(0, 1, 11):
        picture, grain = sampler.rates(float(time))
        assert picture**2 + grain**2 == pytest.approx(1)
    assert sampler.rates(0) == (1, 0)


def test_noise_is_normal_and_the_seeds_own() -> None:
    """Mean 0, variance 1, a tail; no two seeds and no two channels share it."""
    noise = sampler.noise(5, 64, 64)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 1) < 0.03
    assert 0.040 < (np.abs(noise) > 1.96).mean() < 0.060
    assert abs(np.corrcoef(noise.ravel(), sampler.noise(6, 64, 64).ravel())[0, 1]) < 0.03
    assert np.abs(np.corrcoef(noise.reshape(4, -1)) - np.eye(4)).max() < 0.06


def test_noise_has_the_same_bits_in_another_process() -> None:
    """A seed of 53 bits, too."""
    program = (
        "import hashlib, sys\n"
        "from gateway.engine.denoise.sampler import noise\n"
        "print(hashlib.sha256(noise(2**53 - 1, 48, 80).tobytes()).hexdigest())\n"
    )
    environment = {"PYTHONPATH": ".", "PYTHONHASHSEED": "5"}
    run = [sys.executable, "-c", program]
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    assert there == hashlib.sha256(sampler.noise(2**53 - 1, 48, 80).tobytes()).hexdigest()
