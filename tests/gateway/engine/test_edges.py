"""Lines: told from photographs, found in them, and followed."""

import numpy as np
import pytest

from gateway.engine.denoise.colouring import coloured, regions
from gateway.engine.denoise.masks import grown
from gateway.engine.interface import Pixels, Plane, Wish
from gateway.engine.paint.edges import lines, outlines
from gateway.engine.paint.frame import frame_for
from tests.gateway.engine.shapes import COLOURS, paint, placed

FRAME = frame_for(256, 256)


def circle(thick: int = 2, edge: int = 256) -> Pixels:
    """A white circle on black, of three eighths of the edge."""
    places = np.arange(edge) - edge / 2
    far = np.hypot(places[:, None], places)
    return np.where(np.abs(far - 0.375 * edge) < thick / 2, 255, 0).astype(np.uint8)


def photograph() -> Pixels:
    """A dark disc before a slanted light, with grain."""
    places = np.arange(256) - 128
    far = np.hypot(places[:, None], places)
    grey = np.where(far < 96, 60, 150 + places[:, None] / 3)
    return (grey + np.random.default_rng(3).normal(0, 4, grey.shape)).clip(0, 255).astype(np.uint8)


def overlap(found: Plane, wanted: Plane) -> float:
    """Return the F-score of two sets of lines, to within a cell."""

    def near(cells: Plane) -> Plane:
        return grown(cells > 0, 1).astype(np.float32)

    right = (found * near(wanted)).sum() / max(found.sum(), 1)
    complete = (wanted * near(found)).sum() / wanted.sum()
    return float(2 * right * complete / max(right + complete, 1e-9))


@pytest.mark.parametrize("thick", [1, 2, 5, 9])
def test_line_drawings_are_taken_as_they_are(thick: int) -> None:
    """Light on dark or dark on light, thin or thick: every cell that a line touches, and no other."""
    drawing = circle(thick)
    wanted = drawing.reshape(64, 4, 64, 4).max(axis=(1, 3)) > 0
    assert np.array_equal(lines(drawing, FRAME), wanted)
    assert np.array_equal(lines(255 - drawing, FRAME), wanted)


def test_thinnest_line_of_a_large_drawing_survives() -> None:
    """One pixel of 2048 is a line of 64."""
    drawing = np.zeros((2048, 2048), np.uint8)
    drawing[1000] = 255
    found = lines(drawing, frame_for(2048, 2048))
    assert found[1000 // 32].all()
    assert found.sum() == 64


def test_photograph_becomes_its_outlines() -> None:
    """The disc's circle, closed, and not the grain."""
    found = lines(photograph(), FRAME)
    wanted = lines(circle(2), FRAME)
    assert overlap(found, wanted) > 0.9
    assert regions(found > 0)[32, 32] != regions(found > 0)[1, 1]


def test_filled_silhouette_is_no_drawing() -> None:
    """White on black as a drawing is, but solid: its outline is followed, not its whole area."""
    places = np.arange(256) - 128
    disc = np.where(np.hypot(places[:, None], places) < 96, 255, 0).astype(np.uint8)
    assert overlap(lines(disc, FRAME), lines(circle(2), FRAME)) > 0.9
    assert lines(disc, FRAME)[32, 32] == 0


def test_flat_picture_has_no_lines() -> None:
    """Grain of a few levels is none either."""
    grey = np.random.default_rng(1).integers(124, 132, (256, 256)).astype(np.uint8)
    assert not lines(grey, FRAME).any()
    assert not outlines(np.full((64, 64), 9, np.float32)).any()


def test_regions_are_parted_by_slanted_lines() -> None:
    """A staircase of cells that touch at corners only lets nothing through; a gap does."""
    drawn = np.eye(9, dtype=bool)
    labels = regions(drawn)
    assert labels[0, 8] != labels[8, 0]
    assert (labels[drawn] == 0).all()
    assert len(np.unique(labels)) == 3
    drawn[4, 4] = False
    assert len(np.unique(regions(drawn))) == 2


def test_regions_follow_a_winding_way() -> None:
    """Two ends of a spiral are one region."""
    drawn = np.zeros((9, 9), bool)
    drawn[1::4, :-1] = drawn[3::4, 1:] = True
    labels = regions(drawn)
    assert labels[0, 0] == labels[8, 8] > 0


def test_drawn_shape_wins_over_the_sketch() -> None:
    """A cross in a circle's lines becomes a disc in the cross's colour, clear outside."""
    sheet = placed("cross", COLOURS["green"], Wish("", 1, 64, 64))
    drawn = lines(circle(3), FRAME)
    figure = coloured(sheet, drawn)
    places = np.arange(64) - 31.5
    far = np.hypot(places[:, None], places)
    assert (figure[3, far < 23] == 1).all()
    assert (figure[3, far > 27] == 0).all()
    assert np.allclose(figure[:3, far < 21], np.array(COLOURS["green"])[:, None], atol=0.01)
    ink = figure[:3, drawn > 0].max(axis=0)
    assert ink.max() < 0.5 * max(COLOURS["green"])


def test_open_lines_are_drawn_on_the_sketch_itself() -> None:
    """Nothing is enclosed, so that nothing can be filled."""
    drawn = np.zeros((64, 64), np.float32)
    drawn[10:54, 20] = drawn[10, 20:44] = 1
    sheet = placed("disc", COLOURS["green"], Wish("", 1, 64, 64))
    figure = coloured(sheet, drawn)
    assert np.allclose(figure[:3, 32, 32], COLOURS["green"], atol=0.01)
    assert (figure[3, drawn > 0] == 1).all()
    assert np.array_equal(coloured(sheet, np.zeros((64, 64), np.float32)), sheet)
    lines_alone = coloured(np.zeros_like(sheet), drawn)
    assert np.array_equal(lines_alone[3], drawn)


def test_picture_has_the_lines_where_they_were_drawn() -> None:
    """Of a sketch with a quite different outline; the outlines found in the picture are the drawn ones."""
    with_lines = paint("green cross", edges=circle(3), width=256, height=256).picture
    without = paint("green cross", width=256, height=256).picture
    wanted = lines(circle(3), FRAME)
    there, elsewhere = (
        overlap(lines(picture.mean(axis=2).astype(np.uint8), FRAME), wanted) for picture in (with_lines, without)
    )
    assert there > 0.9
    assert elsewhere < 0.5


def test_weak_lines_leave_the_sketch_its_shape() -> None:
    """Under a half they are only drawn over it, paler the less they count."""
    strong, weak, weaker = (
        paint("green cross", edges=circle(3), edge_weight=weight, width=256, height=256).picture
        for weight in (1.0, 0.4, 0.2)
    )
    # A place inside the circle and outside the cross.
    assert strong[80, 80, 0] < 100
    assert (weak[80, 80] == 255).all()
    line = (128, 128 + 96)
    assert strong[line].mean() < weak[line].mean() < weaker[line].mean()
