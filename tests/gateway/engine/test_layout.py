"""Rules of layout, colours and figures, without words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.atlas import Atlas
from gateway.engine.interface import Colour, Pixels
from gateway.engine.sketch.layout import Group, Shape, Unit, arranged
from gateway.engine.sketch.poses import posed
from gateway.engine.sketch.recolour import recoloured
from gateway.engine.sketch.sheet import Place, cropped, laid, premultiplied
from gateway.engine.words.lexicon import Relation, lexicon

_BOX = (0.0, 0.0, 64.0, 64.0)
_SQUARE = Shape(60, 60)


def _places(unit: Unit, shapes: list[Shape], box: tuple[float, float, float, float] = _BOX) -> list[Place]:
    return sorted(arranged(unit, shapes, [1.0] * len(shapes), box), key=lambda place: place.figure)


def test_alone_in_its_own_frame_is_not_scaled() -> None:
    """An icon's pixels are copied."""
    assert _places(0, [_SQUARE]) == [Place(0, 32, 32, 1.0)]
    assert _places(0, [Shape(62, 40)])[0].scale == 1.0


_RELATIONS: dict[Relation, tuple[int, int]] = {
    "on": (-1, 0), "over": (-1, 0), "under": (1, 0), "ride": (-1, 0), "left": (0, -1), "right": (0, 1),
    "front": (1, 0), "behind": (-1, 0),
}  # fmt: skip


@pytest.mark.parametrize("relation", sorted(_RELATIONS))
@pytest.mark.parametrize("shapes", [[_SQUARE, _SQUARE], [Shape(60, 25), Shape(25, 60)], [Shape(60, 60), Shape(60, 20)]])
def test_relation_puts_source_where_it_belongs(relation: Relation, shapes: list[Shape]) -> None:
    """Upper is smaller y, left is smaller x, and both are of a fair size."""
    source, target = _places(Group((0,), relation, 1), shapes)
    down, right = _RELATIONS[relation]
    assert (source.y - target.y) * down >= 0
    assert (source.x - target.x) * right >= 0
    assert abs(source.y - target.y) + abs(source.x - target.x) > 6
    for place in (source, target):
        shape = shapes[place.figure]
        assert max(shape.height, shape.width) * place.scale >= 20


@pytest.mark.parametrize(
    "relation,order", [("on", [1, 0]), ("under", [1, 0]), ("front", [1, 0]), ("behind", [0, 1]), ("wear", [0, 1])]
)
def test_nearer_thing_is_drawn_later(relation: Relation, order: list[int]) -> None:
    """What is in front hides a part of what is behind."""
    places = arranged(Group((0,), relation, 1), [_SQUARE, _SQUARE], [1.0, 1.0], _BOX)
    assert [place.figure for place in places] == order


def test_hollow_things_hide_what_is_in_them() -> None:
    """A basket is drawn over the dog; a house is not."""
    for hollow, order in ((True, [0, 1]), (False, [1, 0])):
        shapes = [_SQUARE, Shape(50, 60, large=not hollow, hollow=hollow)]
        assert [place.figure for place in arranged(Group((0,), "in", 1), shapes, [1.0, 1.0], _BOX)] == order


def test_hat_is_as_wide_as_head_and_above_middle() -> None:
    """By the head's place, not by the frame's."""
    face = Shape(60, 60, head=(0.1, 0.3, 0.5))
    who, hat = _places(Group((0,), "wear", 1), [face, Shape(40, 50)])
    assert hat.x == pytest.approx(who.x - 0.2 * 60 * who.scale)
    assert hat.scale * 50 == pytest.approx(0.5 * 60 * who.scale)
    assert hat.y < who.y - 0.3 * 60 * who.scale


@pytest.mark.parametrize("count", range(2, 13))
@pytest.mark.parametrize("box", [_BOX, (0, 0, 48, 112), (0, 0, 96, 64)])
def test_rows_do_not_cover_each_other(count: int, box: tuple[float, float, float, float]) -> None:
    """Discs may touch by corners of their frames only."""
    places = _places(Group(tuple(range(count))), [_SQUARE] * count, box)
    assert len(places) == count
    for one in places:
        for other in places[one.figure + 1 :]:
            apart = np.hypot(one.y - other.y, one.x - other.x)
            assert apart >= 0.98 * 30 * (one.scale + other.scale)


def test_wide_sheet_uses_its_width() -> None:
    """Two things on a wide sheet have its full height each."""
    places = _places(Group((0, 1)), [_SQUARE, _SQUARE], (0, 0, 48, 112))
    assert places[0].y == places[1].y
    assert min(place.scale for place in places) * 60 > 42


_SHAPES = st.builds(Shape, height=st.integers(1, 64), width=st.integers(1, 64))


@given(
    shapes=st.lists(_SHAPES, min_size=1, max_size=6),
    box=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(40, 128), st.integers(40, 128)),
    seed=st.integers(0, 99),
)
def test_pose_keeps_all_within_box(shapes: list[Shape], box: tuple[int, int, int, int], seed: int) -> None:
    """However it is turned, mirrored and moved."""
    places = arranged(Group(tuple(range(len(shapes)))), shapes, [1.0] * len(shapes), box)
    draw = np.random.Generator(np.random.PCG64(seed))
    for place in posed(places, shapes, [True] * len(shapes), box, draw):
        reach = np.hypot(shapes[place.figure].height, shapes[place.figure].width) * place.scale / 2 * 0.6
        assert box[0] - 2 <= place.y - min(reach, shapes[place.figure].height * place.scale / 2)
        assert place.y + min(reach, shapes[place.figure].height * place.scale / 2) <= box[2] + 2
        assert abs(place.turn) <= 6


def _mean(icon: Pixels) -> Colour:
    seen = icon[icon[..., 3] > 200][:, :3] / 255
    red, green, blue = (float(level) for level in np.median(seen, axis=0))
    return red, green, blue


@pytest.mark.parametrize(
    "name", ["elephant", "red-apple", "cat", "dog", "automobile", "rabbit", "frog", "red-heart", "robot"]
)
@pytest.mark.parametrize("dye", ["pink", "purple", "blue", "green", "gold", "black", "white", "turquoise", "brown"])
def test_recoloured_icon_has_named_colour(atlas: Atlas, name: str, dye: str) -> None:
    """The middle pixel is about of the colour; alpha stays to the bit."""
    icon, rgb = atlas.pixels(name), lexicon().dyes[dye].rgb
    out = recoloured(icon, rgb)
    assert np.array_equal(out[..., 3], icon[..., 3])
    assert np.abs(np.subtract(_mean(out), rgb)).max() < 0.3
    assert np.abs(np.subtract(_mean(out), rgb)).max() <= np.abs(np.subtract(_mean(icon), rgb)).max() + 0.02


@pytest.mark.parametrize("name", ["dog", "elephant", "panda", "penguin"])
def test_recolouring_keeps_shade_and_darkest_parts(atlas: Atlas, name: str) -> None:
    """Eyes and outlines stay where they are, and light from dark can be told."""
    icon = atlas.pixels(name)
    out = recoloured(icon, lexicon().dyes["purple"].rgb)
    dark = (icon[..., :3].max(axis=2) < 35) & (icon[..., 3] > 200)
    assert dark.any()
    assert np.abs(out[dark][:, :3].astype(int) - icon[dark][:, :3]).max() < 30
    assert float(out[out[..., 3] > 200][:, 1].std()) > 10


def test_recolouring_keeps_leaf_of_apple(atlas: Atlas) -> None:
    """What has another hue is another part."""
    icon = atlas.pixels("red-apple")
    leaf = (icon[..., 1] > icon[..., 0].astype(int) + 40) & (icon[..., 3] > 250)
    out = recoloured(icon, lexicon().dyes["blue"].rgb)
    assert leaf.sum() > 50
    # At its rim it is mixed with the red that is dyed.
    assert np.median(np.abs(out[leaf][:, :3].astype(int) - icon[leaf][:, :3])) < 3


@pytest.mark.parametrize(
    "icon", [np.zeros((4, 4, 4), np.uint8), np.full((3, 3, 4), 255, np.uint8), np.full((1, 1, 4), 7, np.uint8)]
)
def test_recolouring_takes_any_icon(icon: Pixels) -> None:
    """Nothing, all white, nearly transparent."""
    assert recoloured(icon, (1.0, 0.0, 0.0)).shape == icon.shape


def test_cropping_leaves_figure_or_one_pixel() -> None:
    """The border goes, and nothing is an error."""
    icon = np.zeros((9, 9, 4), np.uint8)
    assert cropped(icon).shape == (1, 1, 4)
    icon[2:5, 3:4] = 255
    assert cropped(icon).shape == (3, 1, 4)


@pytest.mark.parametrize("scale,turn", [(1.0, 0.0), (0.5, 0.0), (1.7, 0.0), (1.0, 30.0), (0.37, -6.0)])
def test_turned_and_scaled_figure_keeps_its_colour(scale: float, turn: float) -> None:
    """A half transparent red square stays red, of about its area, and premultiplied."""
    figure = premultiplied(np.full((40, 40, 4), (255, 0, 0, 128), np.uint8))
    sheet = laid([figure], [Place(0, 48, 48, scale, turn)], 96, 96)
    assert float(sheet[3].sum()) == pytest.approx(128 / 255 * (40 * scale) ** 2, rel=0.06)
    assert np.abs(sheet[0] - sheet[3]).max() < 0.02
    assert float(sheet[1:3].max()) == 0


def test_later_figure_covers_earlier() -> None:
    """By its alpha."""
    red = premultiplied(np.full((8, 8, 4), (255, 0, 0, 255), np.uint8))
    blue = premultiplied(np.full((8, 8, 4), (0, 0, 255, 127), np.uint8))
    sheet = laid([red, blue], [Place(0, 8, 8, 1.0), Place(1, 8, 8, 1.0)], 16, 16)
    assert sheet[:, 8, 8] == pytest.approx((0.5, 0, 0.5, 1), abs=0.01)
