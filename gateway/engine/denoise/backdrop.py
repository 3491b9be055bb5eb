"""What lies behind: fills a hole from its rim with hard borders, and finds the figure that stands before the rest.

The rim's colours are grouped; each cell takes the group that is nearest and most frequent, and within it the mean of
its colours by nearness. So a sky stays smooth, and a horizon stays a line.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.denoise.masks import Mask, grown
from gateway.engine.interface import Plane, Sheet

_RIM: Final = 2
"""Cells: how deep the rim around a hole is looked at."""
_ALIKE: Final = 0.2
"""The distance of two RGB colours (0..1 each) up to which they belong to one group."""
_RARE: Final = 0.05
"""A group with less than this part of the rim is a detail, and not gone on with."""
_STANDS_OUT: Final = 0.22
"""The distance from the backdrop from which on a colour belongs to the figure."""
_FIGURE: Final = (0.03, 0.85)
"""The least and the greatest part of the picture that a figure covers."""


def without_hole(known: Sheet, keep: Plane) -> Sheet:
    """Return an opaque sheet (4, height, width) whose hole, where `keep` is 0, is filled from around it."""
    hole = keep < 1
    rim = grown(hole, _RIM) & ~hole
    if not rim.any():
        return known
    strips = [strip for strip in (_across(known, hole, axis) for axis in (0, 1)) if strip is not None]
    apart, best = min(strips, key=lambda strip: strip[0], default=(1.0, known))
    if apart >= _ALIKE:
        sides = sum(bool(side.any()) for side in (hole[0], hole[-1], hole[:, 0], hole[:, -1]))
        # A figure does not go on over half a picture; what is behind it does.
        found = figure(known, ~hole) if sides >= 3 else None
        behind = rim if found is None else rim & ~found[0]
        best = _filled(known, behind if behind.any() else rim)
    return np.where(hole, best, known)


def figure(known: Sheet, seen: Mask | None = None) -> tuple[Mask, Sheet] | None:
    """Return where the picture's figure stands, and the picture without it; None if nothing stands out clearly.

    Backdrop is what can be guessed from the picture's border, as far as that is `seen` (None = all).
    """
    seen = np.ones(known.shape[1:], bool) if seen is None else seen
    rim = seen.copy()
    rim[_RIM:-_RIM, _RIM:-_RIM] = False
    if not rim.any():
        return None
    strips = [strip[1] for strip in (_across(known, ~rim, axis) for axis in (0, 1)) if strip is not None]
    guesses = [_filled(known, rim), *strips]
    distances = [_length(known[:3] - guess[:3]) for guess in guesses]
    # What any of the guesses explains is backdrop.
    differs = (np.minimum.reduce(distances) > _STANDS_OUT) & seen
    behind = guesses[int(np.argmin([distance.mean() for distance in distances]))]
    least, most = _FIGURE
    if not least <= differs.mean() <= most:
        return None
    # One cell wider, because cells at the outline are half figure, half backdrop.
    return differs, np.where(grown(differs, 1), behind, known)


def _across(known: Sheet, hole: Mask, axis: int) -> tuple[float, Sheet] | None:
    """Join both sides of the hole by straight strips along an axis; None where it has but one side.

    Returns how far apart the sides' colours are on average, and the sheet.
    """
    if axis == 0:
        joined = _across(known.swapaxes(1, 2), hole.T, 1)
        return None if joined is None else (joined[0], joined[1].swapaxes(1, 2))
    width = hole.shape[1]
    places = np.where(hole, -1, np.arange(width))
    left = np.maximum.accumulate(places, axis=1)
    places = np.where(hole, width, np.arange(width))
    right = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]
    if (left < 0).any() or (right == width).any():
        return None
    start, end = (np.take_along_axis(known, side[None], axis=2) for side in (left, right))
    part = ((np.arange(width) - left) / np.maximum(right - left, 1)).astype(np.float32)
    return float(_length(end[:3] - start[:3])[hole].mean()), start + part * (end - start)


def _filled(known: Sheet, rim: Mask) -> Sheet:
    """Return a sheet of what the rim's colours go on to everywhere."""
    places = np.argwhere(rim)
    colours = known[:3, rim].T
    groups = _groups(colours)
    height, width = rim.shape
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    votes = np.zeros((int(groups.max()) + 1, height, width), np.float32)
    sums = np.zeros((len(votes), 3, height, width), np.float32)
    for (row, column), colour, group in zip(places, colours, groups, strict=True):
        if group < 0:
            continue
        far = (rows - np.float32(row)) ** 2 + (columns - np.float32(column)) ** 2 + np.float32(0.25)
        near = 1 / (far * np.sqrt(far))
        votes[group] += near
        sums[group] += colour[:, None, None] * near
    best = votes.argmax(axis=0)
    weight = np.take_along_axis(votes, best[None], axis=0)
    total = np.take_along_axis(sums, best[None, None], axis=0)[0]
    return np.concatenate([total / weight, np.ones_like(weight)])


def _groups(colours: Plane) -> "NDArray[np.intp]":
    """Return the number of each colour's group, -1 for a rare one."""
    leaders: list[Plane] = []
    groups = np.empty(len(colours), np.intp)
    for index, colour in enumerate(colours):
        apart = [float(_length(colour - leader)) for leader in leaders]
        nearest = int(np.argmin(apart)) if apart else -1
        if nearest < 0 or apart[nearest] > _ALIKE:
            nearest = len(leaders)
            leaders.append(colour)
        groups[index] = nearest
    counts = np.bincount(groups)
    # The greatest group is never rare, however many there are.
    rare = counts < min(_RARE * len(colours), counts.max())
    return np.where(rare[groups], -1, groups)


def _length(colour: Plane) -> Plane:
    red, green, blue = colour
    length: Plane = np.sqrt(red * red + green * green + blue * blue)
    return length
