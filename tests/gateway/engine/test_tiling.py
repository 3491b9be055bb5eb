"""Patterns and surfaces go on at their opposite edges."""

import numpy as np
import pytest

from gateway.engine.interface import Plane, Sheet, Wish
from gateway.engine.sketch.sheet import Place, laid
from gateway.engine.sketch.sketcher import IconSketcher
from gateway.engine.sketch.texture import material, painted, surfaces
from gateway.engine.sketch.tiling import scattered
from gateway.engine.words.lexicon import lexicon

_SIZES = [(64, 64), (64, 96), (48, 112), (32, 16)]
_KINDS = {surface.kind: word for word, surface in surfaces().items()}


def _draw(seed: int = 3) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _steps(sheet: Sheet, axis: int) -> Plane:
    """How much each row or column differs from the next, the last from the first; (n,)."""
    other = tuple(number for number in range(3) if number != axis)
    steps: Plane = np.abs(np.roll(sheet, -1, axis) - sheet).mean(axis=other)
    return steps


@pytest.mark.parametrize("height,width", _SIZES)
@pytest.mark.parametrize("kind", sorted(_KINDS))
def test_surface_has_no_seam(kind: str, height: int, width: int) -> None:
    """From the last row to the first is no greater step than between any two others."""
    sheet = painted(surfaces()[_KINDS[kind]], height, width, _draw())
    assert sheet.shape == (4, height, width)
    assert np.all(sheet[3] == 1)
    assert 0 <= float(sheet.min()) <= float(sheet.max()) <= 1 + 1e-6
    for axis in (1, 2):
        steps = _steps(sheet, axis)
        assert float(steps[-1]) <= 1.25 * float(steps[:-1].max()) + 1e-6


@pytest.mark.parametrize("kind", sorted(_KINDS))
def test_surface_is_not_plain_and_differs_by_seed(kind: str) -> None:
    """A texture that is one colour is none."""
    first, second = (painted(surfaces()[_KINDS[kind]], 64, 64, _draw(seed)) for seed in (1, 2))
    assert float(first[:3].std(axis=(1, 2)).max()) > 0.01
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("down,right", [(5, 0), (0, 9), (31, 40)])
def test_wrapped_figures_move_in_a_circle(down: int, right: int) -> None:
    """A pattern that is moved is the same pattern, cut elsewhere."""
    figure = np.full((20, 13, 4), 200, np.uint8)
    places = [Place(0, 10, 10, 1.0), Place(0, 60, 62, 1.0), Place(0, 30, 2, 0.5)]
    moved = [Place(0, place.y + down, place.x + right, place.scale) for place in places]
    still = laid([figure], places, 64, 64, wrap=True)
    assert np.array_equal(np.roll(still, (down, right), (1, 2)), laid([figure], moved, 64, 64, wrap=True))


@pytest.mark.parametrize("prompt", ["cat", "strawberry and lemon", "red star", "蓝色的花", "grass with mushrooms"])
def test_pattern_has_no_seam(sketcher: IconSketcher, prompt: str) -> None:
    """What a figure covers at one edge goes on at the other, but for a pixel or two of its outline."""
    sheets = sketcher.sketch(Wish(prompt, 4, 64, 64, tiling=True)).sheets
    for alpha in (sheets[:, 3], sheets[:, 3].transpose(0, 2, 1)):
        last, first = alpha[:, -1], alpha[:, 0]
        beyond = np.maximum.reduce([np.roll(first, shift, 1) for shift in range(-3, 4)])
        covered = last > 0.9
        assert covered.any()
        assert float((beyond[covered] > 0.1).mean()) > 0.85


@pytest.mark.parametrize("height,width,least,most", [(64, 64, 4, 5), (64, 128, 8, 10), (32, 32, 4, 5)])
def test_pattern_has_several_copies_of_all(height: int, width: int, least: int, most: int) -> None:
    """Every figure is there more than once, and within a larger sheet more often."""
    places = scattered([(60, 40), (30, 60)], height, width, _draw())
    assert least <= len(places) <= most
    assert min(sum(place.figure == figure for place in places) for figure in (0, 1)) >= 2


def test_pattern_of_one_figure_varies_size_and_turn() -> None:
    """It shall not look stamped."""
    places = scattered([(60, 60)], 64, 64, _draw())
    assert len({place.turn for place in places}) == len(places)
    assert max(place.scale for place in places) > 1.4 * min(place.scale for place in places)
    assert scattered([], 64, 64, _draw()) == []


@pytest.mark.parametrize(
    "prompt,kind,rest",
    [
        ("brick wall texture", "bricks", "texture"),
        ("seamless wooden planks", "planks", "seamless"),
        ("grass with flowers", "blades", "with flowers"),
        ("green leaves", "leaves", "green leaves"),
        ("石头", "cells", ""),
        ("岩浆纹理", "cells", "纹 理"),
        ("lava and stone", "cells", "and"),
    ],
)
def test_material_is_found_and_taken_out(prompt: str, kind: str, rest: str) -> None:
    """The words that are left are for figures on it."""
    surface, words = material(prompt)
    assert surface is not None
    assert (surface.kind, words) == (kind, rest)


def test_material_takes_colour_before_it() -> None:
    """Blue bricks are blue, their joints stay; what names no material is left alone."""
    plain, blue = (material(prompt)[0] for prompt in ("brick", "blue brick"))
    assert plain is not None
    assert blue is not None
    assert blue.colours[2] == pytest.approx(lexicon().dyes["blue"].rgb, abs=0.01)
    assert np.array_equal(plain.colours[0], blue.colours[0])
    assert material("cat, dog") == (None, "cat, dog")


def test_materials_fill_sheet_only_when_it_tiles(sketcher: IconSketcher) -> None:
    """A picture of a stone stays a figure."""
    tiled = sketcher.sketch(Wish("stone", 1, 64, 64, tiling=True))
    assert np.all(tiled.sheets[0, 3] == 1)
    assert tiled.names[0] == ()
    assert sketcher.sketch(Wish("stone", 1, 64, 64)).sheets[0, 3].min() == 0
