"""The last step: from a small clean sheet to pixels of the asked size, some rows at a time."""

from collections.abc import Callable
from typing import Final

import numpy as np

from gateway.engine.interface import Painting, Pixels, Plane, Sheet
from gateway.engine.paint.filters import drawing
from gateway.engine.paint.frame import crisp
from gateway.engine.paint.plan import Plan

_Enlarge = Callable[[slice], Plane]

_CLEAR: Final = 0.1
"""An alpha up to this becomes 0, and one that is as near to 1 becomes 1: no grain on the ground, clean edges."""
_INVISIBLE: Final = 1e-3
_NO_DETAIL: Final = 0.55
"""The strength from which on nothing of the init image's details is put back."""
_CHANGED: Final = 0.3
"""A cell whose colour changed by this part of the range has no more to do with the init's details."""


class Finish:
    """A painting's pixels, from the last guess `sheet`."""

    def __init__(self, painting: Painting, plan: Plan, sheet: Sheet) -> None:
        self._painting, self._plan = painting, plan
        clean = snapped(sheet)
        flat = laid(clean, plan)
        self._enlarge = self._enlarger(clean if painting.transparent else flat)
        self._detail = _detail(painting, plan, flat)
        self._known = None if plan.known is None else self._enlarger(plan.known[:3])

    def rows(self, rows: slice) -> Pixels:
        """Return rows of the picture, RGB or RGBA, of shape (len(rows), width, 3 or 4)."""
        large = self._enlarge(rows)
        if self._painting.transparent:
            # The filter's last waves would be grain.
            large = large if self._painting.look == "pixel-art" else snapped(np.clip(large, 0, 1))
            return _kept(self._painting, rows, as_pixels(straight(large)))
        if self._detail is not None and self._painting.init is not None and self._known is not None:
            init = self._painting.init[rows].transpose(2, 0, 1) / np.float32(255)
            large += crisp(self._detail, self._plan.frame, rows) * (init - self._known(rows))
        return _kept(self._painting, rows, as_pixels(large))

    def _enlarger(self, planes: Plane) -> _Enlarge:
        frame = self._plan.frame
        # Under twice the size there is no room for an outline between two cells.
        if self._painting.look == "pixel-art" or min(frame.rows.scale, frame.columns.scale) < 2:
            return lambda rows: crisp(planes, frame, rows)
        drawn = drawing(planes, tiling=self._painting.tiling)
        return lambda rows: drawn.rows(frame, rows)


def snapped(sheet: Sheet) -> Sheet:
    """Return the sheet with what is nearly clear made quite clear, and what is nearly solid quite solid."""
    alpha = sheet[3]
    sharp = np.clip((alpha - _CLEAR) / (1 - 2 * _CLEAR), 0, 1)
    colours = np.clip(sheet[:3] / np.maximum(alpha, _CLEAR), 0, 1)
    return np.concatenate([colours * sharp, sharp[None]])


def laid(sheet: Sheet, plan: Plan) -> Plane:
    """Return the figure laid on the painting's ground, as RGB of shape (3, height, width)."""
    ground = np.array(plan.ground, np.float32)[:, None, None]
    flat: Plane = sheet[:3] + (0 if plan.scene.whole else (1 - sheet[3]) * ground)
    return flat


def straight(planes: Sheet) -> Sheet:
    """Return premultiplied RGBA planes with straight colours."""
    alpha = np.clip(planes[3:], 0, 1)
    return np.concatenate([planes[:3] / np.maximum(alpha, np.float32(_INVISIBLE)), alpha])


def as_pixels(planes: Plane) -> Pixels:
    """Return planes (channels, height, width) in 0..1 as pixels (height, width, channels)."""
    levels: Plane = np.rint(np.clip(planes, 0, 1) * np.float32(255))
    return levels.astype(np.uint8).transpose(1, 2, 0)


def _detail(painting: Painting, plan: Plan, flat: Plane) -> Plane | None:
    """How much of the init's finest details goes back onto each cell (0..1): those that the canvas cannot hold.

    The more the less a cell has changed, and the less it was allowed to. None = nothing.
    """
    if plan.known is None or painting.transparent or plan.strength > _NO_DETAIL:
        return None
    change = np.abs(flat - plan.known[:3]).max(axis=0)
    allowed = (1 - plan.strength / _NO_DETAIL) ** 0.5
    weight: Plane = np.float32(allowed) * np.clip(1 - change / np.float32(_CHANGED), 0, 1)
    return weight


def _kept(painting: Painting, rows: slice, pixels: Pixels) -> Pixels:
    """The rows; the init's bytes where the mask is black, and a mixture where it is grey."""
    if painting.mask is None or painting.init is None:
        return pixels
    part = painting.mask[rows, :, None].astype(np.float32) / 255
    init = painting.init[rows]
    if pixels.shape[2] == 4:
        init = np.concatenate([init, np.full_like(init[..., :1], 255)], axis=2)
    blend = np.rint(init + part * (pixels.astype(np.float32) - init)).astype(np.uint8)
    return np.where(part == 0, init, blend)
