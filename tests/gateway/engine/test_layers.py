"""The layers against what they are by definition."""

import numpy as np
import pytest

from gateway.engine.denoise.layers import attended, convolved, doubled, gathered, linear, normed, scattered, silu
from gateway.engine.denoise.weights import Weights

DICE = np.random.Generator(np.random.PCG64(7))


def numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return random numbers of a shape."""
    return DICE.standard_normal(shape, dtype=np.float32)


def test_silu_is_what_it_says_and_does_not_overflow() -> None:
    """Also far from 0."""
    values = np.array([-1000, -1, 0, 1, 1000], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert silu(values) == pytest.approx([0, -0.26894143, 0, 0.7310586, 1000], abs=1e-6)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_convolution_sums_over_the_cells_around(wrap: bool) -> None:
    """Beyond the edges lie zeros, or the opposite side."""
    cells, kernel, bias = numbers(2, 4, 5, 3), numbers(3, 3, 3, 6), numbers(6)
    weights: Weights = {"a.weight": kernel.reshape(27, 6), "a.bias": bias}
    found = convolved(weights, "a", cells, wrap=wrap)
    expected = np.zeros((2, 4, 5, 6)) + bias
    for y in range(4):
        for x in range(5):
            for down in range(3):
                for right in range(3):
                    row, column = y + down - 1, x + right - 1
                    if wrap or (0 <= row < 4 and 0 <= column < 5):
                        expected[:, y, x] += cells[:, row % 4, column % 5] @ kernel[down, right]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_norm_gives_each_group_mean_0_and_deviation_1_and_then_films_it() -> None:
    """In each group of channels, before the film."""
    cells, film = 3 + 2 * numbers(2, 4, 4, 16), numbers(2, 32)
    weights: Weights = {"a.weight": np.ones(16, np.float32), "a.bias": np.zeros(16, np.float32)}
    plain = normed(weights, "a", cells)
    groups = plain.reshape(2, 16, 8, 2)
    assert groups.mean(axis=(1, 3)) == pytest.approx(np.zeros((2, 8)), abs=1e-5)
    assert groups.std(axis=(1, 3)) == pytest.approx(np.ones((2, 8)), abs=1e-3)
    filmed = normed(weights, "a", cells, film)
    expected = plain * (1 + film[:, None, None, :16]) + film[:, None, None, 16:]
    assert filmed == pytest.approx(expected, abs=1e-4)


def test_attention_does_not_care_where_a_cell_is() -> None:
    """Cells that change places take their results along."""
    cells = numbers(1, 4, 4, 16)
    weights: Weights = {
        "a.norm.weight": numbers(16), "a.norm.bias": numbers(16), "a.qkv.weight": numbers(16, 48),
        "a.qkv.bias": numbers(48), "a.out.weight": numbers(16, 16), "a.out.bias": numbers(16),
    }  # fmt: skip
    order = DICE.permutation(16)
    shuffled = cells.reshape(1, 16, 16)[:, order].reshape(cells.shape)
    expected = attended(weights, "a", cells).reshape(1, 16, 16)[:, order]
    assert attended(weights, "a", shuffled).reshape(1, 16, 16) == pytest.approx(expected, abs=1e-4)


def test_gathering_keeps_squares_together_and_can_be_undone() -> None:
    """A square of pixels becomes one cell."""
    pixels = numbers(2, 8, 12, 3)
    cells = gathered(pixels, 4)
    assert cells.shape == (2, 2, 3, 48)
    assert sorted(cells[0, 1, 2]) == sorted(pixels[0, 4:8, 8:12].ravel())
    assert np.array_equal(scattered(cells, 4), pixels)


def test_doubling_repeats_each_cell_and_linear_is_a_matrix_and_a_bias() -> None:
    """Both by definition."""
    cells = numbers(1, 2, 2, 3)
    assert np.array_equal(doubled(cells)[0, 2:, :2], np.broadcast_to(cells[0, 1, 0], (2, 2, 3)))
    weights: Weights = {"a.weight": numbers(3, 2), "a.bias": numbers(2)}
    expected = np.einsum("...i,io->...o", cells, weights["a.weight"]) + weights["a.bias"]
    assert linear(weights, "a", cells) == pytest.approx(expected, abs=1e-5)
