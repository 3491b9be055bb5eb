"""The canvas under a picture, and the ways from pixels to cells and back."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.paint.frame import Frame, crisp, finer, frame_for, largest, mean

EDGES = st.integers(8, 256).map(lambda edge: 8 * edge)
SMALL = st.integers(8, 64).map(lambda edge: 8 * edge)


@given(EDGES, EDGES, st.booleans())
def test_canvas_suits_every_size(height: int, width: int, tiling: bool) -> None:
    """Multiples of 16, never finer than the picture, all of the picture covered, of a bounded area."""
    frame = frame_for(height, width, tiling=tiling)
    rows, columns = frame.size
    assert rows % 16 == columns % 16 == 0
    assert min(rows, columns) >= 32
    assert rows * columns <= 8 * 64 * 64
    for span, pixels in ((frame.rows, height), (frame.columns, width)):
        assert span.scale >= 1
        assert span.bounds(span.visible.start)[0] == 0
        assert span.bounds(span.visible.stop - 1)[1] >= pixels - 1e-9
        assert span.visible.start >= 0
        assert span.visible.stop <= span.cells
    if tiling:
        assert frame.box is None
    else:
        assert frame.rows.scale == frame.columns.scale


@given(EDGES, EDGES)
def test_canvas_loses_little_of_its_own(height: int, width: int) -> None:
    """What is painted is mostly seen."""
    frame = frame_for(height, width)
    rows, columns = frame.visible
    seen = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert seen >= 0.7 * frame.size[0] * frame.size[1]


@pytest.mark.parametrize(
    "height,width,size",
    [
        (512, 512, (64, 64)),
        (1024, 768, (64, 48)),
        (512, 768, (64, 96)),
        (720, 1280, (48, 80)),
        (64, 2048, (32, 1024)),
        (64, 72, (64, 64)),
    ],
)
def test_usual_sizes_have_the_canvas_told(height: int, width: int, size: tuple[int, int]) -> None:
    """64 by 64 for a square; of very long pictures the canvas grows."""
    assert frame_for(height, width).size == size


def test_long_canvas_is_cut_off_on_both_sides() -> None:
    """1280 by 720 shows 45 of 48 rows: whole cells at the top."""
    frame = frame_for(720, 1280)
    assert frame.box == (1, 0, 46, 80)


def test_crisp_repeats_pixels_exactly_by_whole_factors() -> None:
    """No new colour, and squares of 8 by 8."""
    cells = np.random.default_rng(2).random((3, 64, 64), dtype=np.float32)
    large = crisp(cells, frame_for(512, 512), slice(0, 512))
    assert np.array_equal(large, cells.repeat(8, axis=1).repeat(8, axis=2))


def test_crisp_shows_all_cells_equally_large_by_broken_factors() -> None:
    """Each cell's share of the pixels is its share of the canvas."""
    frame = frame_for(1000, 1000)
    for cell in (0, 13, 63):
        cells = np.zeros((1, 64, 64), np.float32)
        cells[0, :, cell] = 1
        share = crisp(cells, frame, slice(0, 1))[0, 0].sum()
        assert share == pytest.approx(1000 / 64, abs=1e-3)


@given(SMALL, SMALL, st.data())
@settings(max_examples=25)
def test_crisp_bands_are_parts_of_the_whole(height: int, width: int, data: Any) -> None:
    """Any band has the same bits as in one go."""
    frame = frame_for(height, width)
    cells = np.random.default_rng(2).random((1, *frame.size), dtype=np.float32)
    top = data.draw(st.integers(0, height - 1))
    stop = data.draw(st.integers(top + 1, height))
    assert np.array_equal(crisp(cells, frame, slice(top, stop)), crisp(cells, frame, slice(0, height))[:, top:stop])


@given(SMALL, SMALL)
@settings(max_examples=25)
def test_mean_takes_back_what_crisp_made(height: int, width: int) -> None:
    """A picture of large pixels is found again, in whole factors exactly, in broken ones nearly."""
    frame = frame_for(height, width)
    rows, columns = frame.visible
    small = np.random.default_rng(2).integers(0, 256, (*frame.size, 3), np.uint8)
    large = crisp(small.transpose(2, 0, 1).astype(np.float32), frame, slice(0, height))
    back = mean(np.rint(large).astype(np.uint8).transpose(1, 2, 0), frame)
    if frame.rows.scale.is_integer() and frame.columns.scale.is_integer():
        assert np.array_equal(back[rows, columns], small[rows, columns])
    wide = np.abs(back.mean() - small[rows, columns].mean())
    assert wide < 12


def test_mean_repeats_the_edge_where_the_canvas_juts_out() -> None:
    """Cells that nobody sees have no colours of their own."""
    frame = frame_for(720, 1280)
    picture = np.random.default_rng(2).integers(0, 256, (720, 1280, 3), np.uint8)
    cells = mean(picture, frame)
    assert np.array_equal(cells[0], cells[1])
    assert np.array_equal(cells[46], cells[45])
    assert np.array_equal(cells[1, 0], picture[:16, :16].mean(axis=(0, 1)).astype(np.float32))


@given(SMALL, SMALL, st.data())
@settings(max_examples=25)
def test_largest_misses_no_pixel(height: int, width: int, data: Any) -> None:
    """One white pixel makes white the cells that it touches, and no others."""
    frame = frame_for(height, width)
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    plane = np.zeros((height, width), np.uint8)
    plane[row, column] = 255
    touched = {
        (down, across)
        for down, across in np.ndindex(*frame.size)
        if _covers(frame, down, across, row, column) and _seen(frame, down, across)
    }
    white = {tuple(place) for place in np.argwhere(largest(plane, frame)) if _seen(frame, *place)}
    assert white == touched


def _covers(frame: Frame, down: int, across: int, row: int, column: int) -> bool:
    (top, bottom), (left, right) = frame.rows.bounds(down), frame.columns.bounds(across)
    return bool(top < row + 1 and bottom > row and left < column + 1 and right > column)


def _seen(frame: Frame, down: int, across: int) -> bool:
    rows, columns = frame.visible
    return down in range(rows.start, rows.stop) and across in range(columns.start, columns.stop)


def test_finer_canvas_lies_on_the_same_pixels() -> None:
    """Two cells of the finer canvas are one of the other."""
    frame = frame_for(720, 1280)
    fine = finer(frame, 2)
    assert fine.size == (96, 160)
    assert fine.rows.bounds(2)[0] == frame.rows.bounds(1)[0]
    assert fine.rows.bounds(3)[1] == frame.rows.bounds(1)[1]
