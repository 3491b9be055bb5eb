"""The denoiser without weights: a mean over sketches, as exact as its windows."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gateway.engine.denoise import sampler
from gateway.engine.denoise.backdrop import figure, without_hole
from gateway.engine.denoise.closed_form import ClosedForm, window
from gateway.engine.denoise.sums import box_mean, spread
from gateway.engine.interface import Field, Plane, Scene, Sheet, Sketches, Wish
from tests.gateway.engine.shapes import COLOURS, placed

WISH = Wish("", 1, 64, 64)
DISC, RING, CROSS = (placed(name, COLOURS["red"], WISH) for name in ("disc", "ring", "cross"))


def flat(*levels: float) -> Plane:
    """Return one number a channel, to be spread over a picture."""
    return np.array(levels, np.float32)[:, None, None]


def scene(*sheets: Sheet, chosen: int = 0, **more: Any) -> Scene:
    """Return a scene of equally likely sketches."""
    sketches = Sketches(np.stack(sheets), np.zeros(len(sheets), np.float32))
    return Scene(sketches, chosen, guidance=1.0, **({"whole": False} | more))


def guess(clean: Sheet, time: float, scene: Scene) -> Field:
    """Return the guess for a picture under noise."""
    noisy = sampler.noised(2 * clean - 1, sampler.noise(3, *clean.shape[1:]), time)
    return ClosedForm().guess(noisy, time, scene)


def wrong(field: Field, sheet: Sheet) -> float:
    """Return how far a guess is from a sheet, in -1..1."""
    return float(np.abs(field - (2 * sheet - 1)).mean())


@pytest.mark.parametrize("time", [0, 0.1, 0.3, 0.5])
def test_guess_recognises_its_sketch_under_noise(time: float) -> None:
    """Whichever the seed chose."""
    for sheet in (DISC, RING, CROSS):
        assert wrong(guess(sheet, time, scene(DISC, RING, CROSS)), sheet) < 0.03


def test_guess_of_noise_alone_is_the_seeds_choice() -> None:
    """With a little of the others, which the first noise cannot tell."""
    noise = np.full_like(DISC, 0.5)
    for chosen, sheet in enumerate((DISC, RING, CROSS)):
        found = guess(noise, 0.996, scene(DISC, RING, CROSS, chosen=chosen))
        assert wrong(found, sheet) < 0.06
        others = [other for other in (DISC, RING, CROSS) if other is not sheet]
        assert all(wrong(found, sheet) < wrong(found, other) for other in others)


def test_guess_grows_sharper_as_the_noise_falls() -> None:
    """Of a ring that the seed did not choose: first the disc, then something between, then the ring."""
    far = [wrong(guess(RING, time, scene(DISC, RING)), RING) for time in (0.95, 0.8, 0.6, 0.3)]
    assert far == sorted(far, reverse=True)
    assert far[0] > 10 * far[-1]


def test_parts_may_come_from_different_sketches() -> None:
    """A picture that is a disc at the left and a ring at the right is found, though it is no sketch."""
    both = np.where(np.arange(64) < 32, DISC, RING)
    assert wrong(guess(both, 0.15, scene(DISC, RING)), both) < 0.02
    assert min(wrong(2 * DISC - 1, both), wrong(2 * RING - 1, both)) > 0.05


def test_window_shrinks_from_the_whole_to_a_few_cells() -> None:
    """Without a jump."""
    radii = [window(time, 64) or 0 for time in np.linspace(0.599, 0, 60)]
    assert window(0.6, 64) is None
    assert radii[0] in {31, 32}
    assert radii[-1] == 3
    assert all(0 <= now - after <= 3 for now, after in pairwise(radii))


def test_kept_cells_are_the_known_ones() -> None:
    """Exactly, at any time."""
    known = placed("square", COLOURS["blue"], WISH)
    keep = np.zeros((64, 64), np.float32)
    keep[:, :20] = 1
    for time in (0.9, 0.2):
        found = guess(DISC, time, scene(DISC, known=known, keep=keep))
        assert np.array_equal(found[:, :, :20], 2 * known[:, :, :20] - 1)


def test_whole_picture_is_opaque_and_has_the_inits_ground() -> None:
    """The disc takes the square's place, and a little of its colour."""
    ground = np.ones((4, 64, 64), np.float32) * flat(0.9, 0.8, 0.5, 1)
    square = placed("square", COLOURS["blue"], WISH)
    known = square + (1 - square[3]) * ground
    found = guess(known, 0.8, scene(DISC, known=known, whole=True, strength=0.8))
    laid = DISC + (1 - DISC[3]) * ground
    assert (found[3] == 1).all()
    assert wrong(found, laid) < 0.08
    clear = DISC[3] == 0
    assert np.abs((found + 1) / 2 - laid)[:, clear].mean() < 0.02


def test_tiling_window_sees_the_opposite_edge() -> None:
    """The mean at the left edge counts the right one's cells, only if it is so."""
    plane = np.zeros((8, 8), np.float32)
    plane[:, -1] = 9
    assert np.allclose(box_mean(plane, 1, tiling=True)[:, 0], 3)
    assert np.allclose(box_mean(plane, 1)[:, 0], 0)
    assert np.allclose(box_mean(plane, 1)[:, -1], 6)


def test_box_mean_is_the_mean_over_a_square() -> None:
    """Compared with the sum itself."""
    plane = np.random.default_rng(1).random((3, 12, 15), dtype=np.float32)
    assert np.allclose(box_mean(plane, 2)[:, 6, 7], plane[:, 4:9, 5:10].mean(axis=(1, 2)))


def test_spread_fills_gaps_from_around_and_leaves_the_rest() -> None:
    """A gap between red and blue is red at its red side."""
    values = np.zeros((1, 16, 16), np.float32)
    values[:, :, 8:] = 1
    weights = np.ones((16, 16), np.float32)
    weights[4:12, 2:14] = 0
    values[:, 4:12, 2:14] = 77
    filled = spread(values, weights)
    assert np.array_equal(filled[:, weights == 1], values[:, weights == 1])
    assert filled.min() >= 0
    assert filled.max() <= 1
    assert (np.diff(filled[0, 8]) >= -0.1).all()
    assert not spread(values, np.zeros((16, 16), np.float32)).any()


def test_horizon_goes_on_behind_a_hole() -> None:
    """As a line, in its row."""
    known = np.ones((4, 64, 64), np.float32)
    known[:3, :40] = flat(0.4, 0.6, 0.9)
    known[:3, 40:] = flat(0.2, 0.5, 0.2)
    keep = np.ones((64, 64), np.float32)
    keep[20:60, 10:50] = 0
    holed = np.where(keep > 0, known, 0.5).astype(np.float32)
    assert np.allclose(without_hole(holed, keep), known, atol=1e-5)
    keep[:] = 0
    assert np.array_equal(without_hole(holed, keep), holed)


def test_figure_is_what_its_border_does_not_explain() -> None:
    """On a ground that changes from top to bottom; a picture without one has none."""
    known = np.ones((4, 64, 64), np.float32)
    known[:3] = np.linspace(0, 1, 64, dtype=np.float32)[None, :, None]
    assert figure(known) is None
    bare = known.copy()
    known[:3, 20:40, 30:44] = flat(0.9, 0.1, 0.1)
    found = figure(known)
    assert found is not None
    assert np.argwhere(found[0]).min(axis=0).tolist() == [20, 30]
    assert np.argwhere(found[0]).max(axis=0).tolist() == [39, 43]
    assert np.allclose(found[1], bare, atol=0.02)


def test_figure_that_half_a_picture_cuts_ends_there() -> None:
    """Over the other half its backdrop goes on; where nothing but the figure is at the rim, that does."""
    known = np.ones((4, 64, 64), np.float32) * flat(0.4, 0.6, 0.9, 1)
    known[:3, 20:50, 12:52] = flat(0.9, 0.1, 0.1)
    keep = np.ones((64, 64), np.float32)
    keep[:, 32:] = 0
    half = without_hole(known, keep)
    assert np.allclose(half[:, :, 32:], flat(0.4, 0.6, 0.9, 1), atol=1e-5)
    assert np.array_equal(half[:, :, :32], known[:, :, :32])


def test_outpainted_border_goes_on_from_the_picture() -> None:
    """A hole all round has no border to be told a figure by."""
    known = np.ones((4, 64, 64), np.float32) * flat(0.4, 0.6, 0.9, 1)
    keep = np.zeros((64, 64), np.float32)
    keep[16:48, 16:48] = 1
    holed = np.where(keep > 0, known, 0).astype(np.float32)
    assert np.allclose(without_hole(holed, keep), known, atol=1e-5)


def test_init_without_a_figure_is_tinted_where_the_sketch_lies() -> None:
    """By a little strength; the rest stays as it is."""
    known = np.ones((4, 64, 64), np.float32) * flat(0.4, 0.6, 0.9, 1)
    found = guess(known, 0.3, scene(DISC, known=known, whole=True, strength=0.3))
    middle, corner = (found[:3, 32, 32] + 1) / 2, (found[:3, 1, 1] + 1) / 2
    assert np.allclose(corner, known[:3, 1, 1], atol=0.01)
    assert np.allclose(middle, 0.7 * known[:3, 1, 1] + 0.3 * np.array(COLOURS["red"]), atol=0.02)
