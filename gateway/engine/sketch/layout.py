"""Places figures by rules: alone, in rows, on, under, behind or in each other, worn on a head.

Boxes are (top, left, bottom, right) in pixels; a figure is fitted into its box with its shape kept. Returns `Place`s in
the order of drawing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.engine.sketch.sheet import Place
from gateway.engine.words.lexicon import Relation

Box = tuple[float, float, float, float]

MOST_FIGURES: Final = 12
_MARGIN: Final = 1 / 32
"""Of the shorter edge: what stays free around everything, as around an icon's own figure."""
_GROW: Final = 1.25
"""How much larger than in its own frame a small icon may be drawn."""
_SHARP: Final = (0.97, 1.25)
"""Scales that are made 1: a figure that is copied to the pixel is worth more than one that just fills its box."""
_GAP: Final = 0.015
_OVERLAP: Final = 1.14
"""Of the edge: what two things on a diagonal measure together."""
_ROWS: Final = {
    1: (1,), 2: (1, 1), 3: (1, 2), 4: (2, 2), 5: (2, 1, 2), 6: (3, 3), 7: (2, 3, 2), 8: (3, 2, 3), 9: (3, 3, 3),
    10: (3, 4, 3), 11: (4, 3, 4), 12: (4, 4, 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rules must know of a figure."""

    height: int
    """Pixels of the figure itself, without a border."""
    width: int
    large: bool = False
    """Whether it is a place, a building or a plant: something that others stand in front of."""
    peaked: bool = False
    """Whether one stands on top of it and not in its midst: a mountain or a house, but not a beach."""
    leafy: bool = False
    """Whether what is on it is among its leaves."""
    hollow: bool = False
    """Whether others sit inside, behind its front."""
    eyewear: bool = False
    eyes: float = 0.4
    """How much lower than that the eyes are, in parts of the height."""
    head: tuple[float, float, float] = (0.0, 0.5, 0.8)
    """Where a hat rests and how wide it is there: y, x, width in parts of the figure's height, width, width."""


@dataclass(frozen=True, slots=True)
class Group:
    """Things side by side, or some in a relation to others."""

    members: tuple["int | Group", ...]
    """Places of figures among the shapes."""
    relation: Relation | None = None
    target: "int | Group | None" = None


Unit = int | Group


def arranged(unit: Unit, shapes: Sequence[Shape], sizes: Sequence[float], box: Box) -> list[Place]:
    """Return the places of all figures of the unit within the box; `sizes` are 1 for what has its usual size."""
    top, left, bottom, right = box
    margin = 0.0 if isinstance(unit, int) else _MARGIN * min(bottom - top, right - left)
    return _Layout(shapes, sizes).put(unit, (top + margin, left + margin, bottom - margin, right - margin))


def members(unit: Unit) -> list[int]:
    """Return the places of all figures in a unit."""
    if isinstance(unit, int):
        return [unit]
    parts = [*unit.members] if unit.target is None else [*unit.members, unit.target]
    return [figure for part in parts for figure in members(part)]


def _flat(units: Sequence[Unit]) -> list[Unit]:
    """Side by side in side by side is side by side."""
    flat: list[Unit] = []
    for unit in units:
        flat += [unit] if isinstance(unit, int) or unit.relation is not None else _flat(unit.members)
    return flat


class _Layout:
    def __init__(self, shapes: Sequence[Shape], sizes: Sequence[float]) -> None:
        self._shapes = shapes
        self._sizes = sizes

    def put(self, unit: Unit, box: Box, *, stand: float = 0.5) -> list[Place]:
        """`stand` tells where a figure lies that fills the box's width alone: 0 at its top, 1 at its bottom."""
        if isinstance(unit, int):
            return [self._fit(unit, box, stand)]
        if unit.relation is not None and unit.target is not None:
            row: Unit = unit.members[0] if len(unit.members) == 1 else Group(unit.members)
            return _RULES[unit.relation](self, row, unit.target, box)
        if len(unit.members) == 1:
            return self.put(unit.members[0], box, stand=stand)
        return self._rows(unit.members, box)

    def _fit(self, figure: int, box: Box, stand: float) -> Place:
        shape = self._shapes[figure]
        top, left, bottom, right = box
        scale = min((bottom - top) / shape.height, (right - left) / shape.width)
        # A small sign is not blown up to the size of a house.
        scale = min(scale, _GROW * max(min(bottom - top, right - left), 1) / 60)
        if _SHARP[0] < scale < _SHARP[1]:
            scale = 1.0  # whole pixels stay whole
        slack = bottom - top - shape.height * scale
        y = top + slack * stand + shape.height * scale / 2
        return Place(figure, y, (left + right) / 2, max(scale, 1e-3))

    def _rows(self, units: Sequence[Unit], box: Box) -> list[Place]:
        units = _flat(units)[:MOST_FIGURES]
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        count = len(units)
        if width >= 1.45 * height * (1 if count < 4 else 1.6) or (count == 2 and self._tall(units)):
            return self._line(units, box)
        if (height >= 1.45 * width and count < 4) or (count == 2 and self._wide(units)):
            return self._column(units, box)
        if count == 2:
            return self._diagonal(units, box)
        rows = _ROWS[count]
        if height < width and count in {3, 5}:
            rows = rows[::-1]
        places: list[Place] = []
        done = 0
        widest = max(rows)
        for number, row in enumerate(rows):
            lower, upper = top + height * number / len(rows), top + height * (number + 1) / len(rows)
            inset = width * (widest - row) / widest / 2
            cells = units[done : done + row]
            done += row
            places += self._line(cells, (lower + height * _GAP, left + inset, upper - height * _GAP, right - inset))
        return places

    def _line(self, units: Sequence[Unit], box: Box) -> list[Place]:
        top, left, bottom, right = box
        sizes = [self._size(unit) for unit in units]
        places: list[Place] = []
        for unit, size in zip(units, sizes, strict=True):
            cell = (right - box[1]) * size / sum(sizes)
            gap = cell * 0.02
            places += self.put(unit, (top, left + gap, bottom, left + cell - gap))
            left += cell
        return places

    def _column(self, units: Sequence[Unit], box: Box) -> list[Place]:
        top, left, bottom, right = box
        sizes = [self._size(unit) for unit in units]
        places: list[Place] = []
        for unit, size in zip(units, sizes, strict=True):
            cell = (bottom - box[0]) * size / sum(sizes)
            places += self.put(unit, (top, left, top + cell * 0.98, right))
            top += cell
        return places

    def _diagonal(self, units: Sequence[Unit], box: Box) -> list[Place]:
        """Two things in a square overlap by a corner, where figures are empty, and are the larger for it."""
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        first, second = self._size(units[0]), self._size(units[1])
        share = _OVERLAP * first / (first + second)
        other = _OVERLAP - share
        upper = self.put(units[0], (top, left, top + height * share * 1.04, left + width * share))
        lower = self.put(units[1], (bottom - height * other * 1.04, right - width * other, bottom, right), stand=1)
        return upper + lower

    def _tall(self, units: Sequence[Unit]) -> bool:
        return all(
            isinstance(unit, int) and self._shapes[unit].width < 0.7 * self._shapes[unit].height for unit in units
        )

    def _wide(self, units: Sequence[Unit]) -> bool:
        return all(
            isinstance(unit, int) and self._shapes[unit].height < 0.7 * self._shapes[unit].width for unit in units
        )

    def _size(self, unit: Unit) -> float:
        sizes = [self._sizes[figure] for figure in members(unit)]
        return min(max(sum(sizes) / len(sizes), 0.5), 2.0) * (1 if len(sizes) == 1 else 1.3)

    def on(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        return self._stacked(row, target, box, sunk=0.16)

    def ride(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        return self._stacked(row, target, box, sunk=0.3)

    def _stacked(self, row: Unit, target: Unit, box: Box, sunk: float) -> list[Place]:
        """Something rests on the target, a part of its height lower than the target's top."""
        top, left, bottom, right = box
        height, inset = bottom - top, (right - left) * 0.2
        shape = self._shapes[target] if isinstance(target, int) else None
        if shape is not None and shape.leafy:
            crown = (top + height * 0.06, left + inset, top + height * 0.58, right - inset)
            return [*self.put(target, box), *self.put(row, crown)]
        if shape is not None and shape.large and not shape.peaked:
            return self.front(row, target, box)
        below = self.put(target, (top + height * 0.42, left, bottom, right), stand=1)
        rest = self._top(below)
        edge = min(max(rest + (bottom - rest) * sunk * 2, top + height * 0.45), top + height * 0.72)
        return below + self.put(row, (top, left + inset * 0.8, edge, right - inset * 0.8), stand=1)

    def over(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        below = self.put(target, (top + height * 0.44, left, bottom, right), stand=1)
        return below + self.put(row, (top, left + width * 0.2, top + height * 0.5, right - width * 0.2), stand=0)

    def under(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        reach = 0.94 if self._is_large(target) else 0.66
        above = self.put(target, (top, left, top + height * reach, right), stand=0)
        if isinstance(row, Group) and row.relation is None:
            return above + self.put(row, (top + height * 0.58, left, bottom, right), stand=1)
        side = width * (0.3 if self._is_large(target) else 0.18)
        return above + self.put(row, (top + height * 0.52, left + side, bottom, right - side * 0.2), stand=1)

    def front(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        back = self.put(target, (top, left, bottom - height * 0.06, right), stand=0)
        if isinstance(row, Group) and row.relation is None:
            return back + self.put(row, (top + height * 0.6, left, bottom, right), stand=1)
        return back + self.put(row, (top + height * 0.48, left + width * 0.34, bottom, right), stand=1)

    def behind(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        if self._is_large(row):
            return self.front(target, row, box)
        back = self.put(row, (top, left, top + height * 0.66, left + width * 0.7), stand=0)
        return back + self.put(target, (top + height * 0.36, left + width * 0.3, bottom, right), stand=1)

    def left(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        return self._line((row, target), box)

    def right(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        return self._line((target, row), box)

    def beside(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        return self._rows((row, target), box)

    def inside(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        if not (isinstance(target, int) and self._shapes[target].hollow):
            return self.front(row, target, box)
        top, left, bottom, right = box
        height, width = bottom - top, right - left
        holder = self.put(target, (top + height * 0.4, left, bottom, right), stand=1)
        rim = self._top(holder)
        edge = rim + (bottom - rim) * 0.35
        return self.put(row, (top, left + width * 0.2, edge, right - width * 0.2), stand=1) + holder

    def wear(self, row: Unit, target: Unit, box: Box) -> list[Place]:
        """The row is who wears the target, on its head or before its eyes, and perhaps something more already."""
        if not isinstance(target, int):
            return self._rows((row, target), box)
        top, left, bottom, right = box
        worn = self._shapes[target]
        raised = 0.0 if worn.eyewear else 0.26
        inner = self.put(row, (top + (bottom - top) * raised, left, bottom, right), stand=1)
        who = inner[0]
        shape = self._shapes[who.figure]
        y, x, wide = shape.head
        head = who.x + (x - 0.5) * shape.width * who.scale
        brow = who.y + (y - 0.5) * shape.height * who.scale
        scale = wide * shape.width * who.scale / worn.width
        if worn.eyewear:
            return [*inner, Place(target, brow + shape.eyes * shape.height * who.scale, head, scale)]
        scale = min(scale, (brow - top + 0.3 * worn.height * scale) / worn.height)
        return [*inner, Place(target, brow - 0.28 * worn.height * scale, head, scale)]

    def _is_large(self, unit: Unit) -> bool:
        return isinstance(unit, int) and self._shapes[unit].large

    def _top(self, places: Sequence[Place]) -> float:
        return min(place.y - self._shapes[place.figure].height * place.scale / 2 for place in places)


_RULES: Final[dict[Relation, Callable[[_Layout, Unit, Unit, Box], list[Place]]]] = {
    "on": _Layout.on,
    "over": _Layout.over,
    "under": _Layout.under,
    "front": _Layout.front,
    "behind": _Layout.behind,
    "left": _Layout.left,
    "right": _Layout.right,
    "beside": _Layout.beside,
    "and": _Layout.beside,
    "with": _Layout.beside,
    "wear": _Layout.wear,
    "in": _Layout.inside,
    "ride": _Layout.ride,
}
