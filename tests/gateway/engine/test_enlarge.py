"""Shrinking, enlarging and blurring."""

import numpy as np
import pytest

from gateway.engine.enlarge import blur, enlarge, shrink


def test_shrink_averages_blocks() -> None:
    """A block of four becomes its mean, also where edges do not divide."""
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert shrink(pixels, 2, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert shrink(np.full((7, 5, 3), 9, np.uint8), 3, 2).tolist() == np.full((3, 2, 3), 9.0).tolist()


def test_shrink_sums_bright_pixels_without_overflow() -> None:
    """A white picture of 2048 pixels stays white."""
    assert shrink(np.full((2048, 512), 255, np.uint8), 128, 32).min() == 255


def test_enlarge_keeps_size_one_to_one() -> None:
    """Nothing changes where nothing is enlarged."""
    plane = np.random.default_rng(1).random((3, 8, 6), np.float32)
    assert np.array_equal(enlarge(plane, 8, 6, slice(2, 5)), plane[:, 2:5])


def test_enlarge_gives_the_same_rows_in_bands_as_at_once() -> None:
    """Bands leave no seam."""
    plane = np.random.default_rng(1).random((3, 8, 6), np.float32)
    whole = enlarge(plane, 40, 30, slice(0, 40))
    bands = [enlarge(plane, 40, 30, slice(top, top + 10)) for top in range(0, 40, 10)]
    assert np.array_equal(np.concatenate(bands, axis=1), whole)


def test_enlarge_keeps_a_straight_ramp_straight() -> None:
    """Catmull-Rom splines reproduce what is linear, away from the rim."""
    ramp = np.arange(16, dtype=np.float32)[None, None, :].repeat(4, axis=1)
    large = enlarge(ramp, 4, 64, slice(0, 4))
    assert np.allclose(np.diff(large[0, 0, 8:-8]), 0.25, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 6.0])
def test_blur_spreads_a_point_by_its_sigma(sigma: float) -> None:
    """Mass and variance are those of a Gaussian."""
    plane = np.zeros((1, 81, 81), np.float32)
    plane[0, 40, 40] = 1
    profile = blur(plane, sigma)[0].sum(axis=0)
    place = np.arange(81) - 40
    assert profile.sum() == pytest.approx(1, abs=1e-5)
    assert np.sqrt((profile * place**2).sum()) == pytest.approx(sigma, rel=0.1)
