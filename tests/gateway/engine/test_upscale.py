"""Making pictures larger."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.interface import Pixels
from gateway.engine.paint.upscale import Enlargement, Upscaler, cell_of
from tests.gateway.engine.shapes import blue_square, distance, paint


def enlarged(picture: Pixels, width: int, height: int, steps: int = 3) -> tuple[Pixels, list[Pixels]]:
    """Return the enlarged picture and its previews."""
    job, upscaler = Enlargement(picture, width, height, steps), Upscaler()
    state = upscaler.begin(job)
    previews = []
    for step in range(1, steps + 1):
        state, preview = upscaler.step(job, state, step)
        previews.append(preview.copy())
    return upscaler.finish(job, state), previews


def smooth(edge: int = 96) -> Pixels:
    """Waves in three colours."""
    places = 6 * (np.arange(edge) + 0.5) / edge
    waves = [np.sin(places[:, None] * (1 + k / 3) + k) * np.cos(places * (1 + k / 5)) for k in range(3)]
    return (127 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


@pytest.mark.parametrize("cell", [2, 3, 4, 8])
def test_squares_are_found(cell: int) -> None:
    """Of pictures of pixels; not in photographs, flat pictures or those with one wrong column."""
    base = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    large = base.repeat(cell, axis=0).repeat(cell, axis=1)
    assert cell_of(large) == cell
    assert cell_of(base) == 1
    assert cell_of(np.roll(large, 1, axis=1)) == 1
    assert cell_of(np.full_like(large, 99)) == 1
    assert cell_of(blue_square()) == 1


def test_squares_are_found_after_jpegs_noise() -> None:
    """A level or two inside the squares does not hide them."""
    base = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    noise = np.random.default_rng(2).integers(0, 2, (256, 256, 3), np.uint8)
    large = base.repeat(8, axis=0).repeat(8, axis=1) // 2 + noise
    assert cell_of(large) == 8


def test_painted_picture_gets_clean_outlines() -> None:
    """A disc from squares of 4: nearer to the true disc than squares of 16 are."""
    small = paint("red disc", look="pixel-art", width=256, height=256).picture
    large, _ = enlarged(small, 1024, 1024)
    places = (np.arange(1024) - 511.5) / 16
    inside = np.clip(0.45 * 64 - np.hypot(places[:, None], places) + 0.5, 0, 1) > 0.5
    truth = np.where(inside[..., None], (230, 26, 26), 255)
    squares = small.repeat(4, axis=0).repeat(4, axis=1)
    assert distance(large, truth) < 0.65 * distance(squares, truth)


def test_transparent_picture_keeps_clean_colours() -> None:
    """No dark seam: where it is seen at all the disc has its own colour."""
    small = paint("green disc", look="pixel-art", width=128, height=128, transparent=True).picture
    large, previews = enlarged(small, 512, 512)
    assert large.shape == (512, 512, 4)
    seen = large[large[..., 3] > 40][:, :3]
    assert np.abs(seen.astype(int) - (26, 178, 51)).max() < 30
    assert (large[:16, :16, 3] == 0).all()
    assert previews[-1].shape == (256, 256, 3)
    assert (previews[-1][:8, :8] == 255).all()


def test_photograph_is_enlarged_smoothly_and_keeps_its_sharpness() -> None:
    """Averaged back it is the same; and it is nearer to the truth than linear steps would be."""
    large, _ = enlarged(smooth(96), 384, 384)
    back = large.reshape(96, 4, 96, 4, 3).mean(axis=(1, 3))
    assert distance(back, smooth(96)) < 1
    assert distance(large, smooth(384)) < 0.5 * distance(smooth(96).repeat(4, axis=0).repeat(4, axis=1), smooth(384))


def test_same_size_returns_the_same_bytes() -> None:
    """By a factor of 1 nothing is touched."""
    for picture in (blue_square(), paint(transparent=True).picture):
        same, _ = enlarged(picture, 128, 128)
        assert np.array_equal(same[..., 3:], picture[..., 3:])
        solid = picture[..., 3] == 255 if picture.shape[2] == 4 else np.ones((128, 128), bool)
        assert np.array_equal(same[solid], picture[solid])


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 300), st.integers(1, 300), st.integers(1, 150))
@settings(max_examples=40, deadline=None)
def test_every_size_and_number_of_steps_is_done(height: int, width: int, tall: int, wide: int, steps: int) -> None:
    """Also smaller ones, single pixels, and more steps than rows; a flat picture stays flat."""
    large, previews = enlarged(np.full((height, width, 3), (200, 30, 7), np.uint8), wide, tall, steps)
    assert large.shape == (tall, wide, 3)
    assert (large == (200, 30, 7)).all()
    assert len(previews) == steps


@given(st.integers(1, 150))
@settings(max_examples=10, deadline=None)
def test_steps_do_not_change_the_picture(steps: int) -> None:
    """They only part the work."""
    assert np.array_equal(enlarged(smooth(), 200, 300, steps)[0], enlarged(smooth(), 200, 300, 1)[0])


def test_previews_show_the_progress() -> None:
    """Each is nearer to the last one."""
    _, previews = enlarged(smooth(), 384, 384, 5)
    far = [distance(preview, previews[-1]) for preview in previews]
    assert all(now > after for now, after in pairwise(far))


def test_wrong_jobs_are_refused() -> None:
    """Too large, too many steps, no picture."""
    for width, height, steps, channels in ((2049, 9, 1, 3), (9, 0, 1, 3), (9, 9, 0, 3), (9, 9, 151, 3), (9, 9, 1, 2)):
        with pytest.raises(ValueError, match=r"are|is"):
            Enlargement(np.zeros((9, 9, channels), np.uint8), width, height, steps)


@pytest.mark.parametrize("look", ["squares", "smooth"])
def test_largest_result_needs_little_memory(look: str) -> None:
    """Beside its own 12 MiB less than 40 MiB."""
    picture = smooth(256) if look == "smooth" else smooth(64).repeat(4, axis=0).repeat(4, axis=1)
    tracemalloc.start()
    enlarged(picture, 2048, 2048, 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 52 * 2**20
