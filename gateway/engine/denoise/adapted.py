"""What a scene makes of its sketches: lines given their colours, figures laid on what the init image has behind them.

Both denoisers start from these pictures: the closed form weighs them all, the network follows the one that is meant.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.engine.denoise.backdrop import figure, without_hole
from gateway.engine.denoise.colouring import coloured, stretched
from gateway.engine.denoise.masks import Mask, bounds
from gateway.engine.denoise.sums import box_mean, spread
from gateway.engine.interface import Field, Scene, Sheet

_HALFWAY: Final = 0.5
_YIELDS: Final = 0.55
_YIELDS_IN_HOLE: Final = 0.4
"""The strength where the init image gives way to the sketch, without a mask and with: the usual strengths of 0.6 to 0.8
shall show what the prompt names."""
_SOFT: Final = 5
"""Cells: the init's details are what is finer, and its colours what is coarser."""
_LEANS: Final = 0.6
"""The part of the init's colours that a figure would take at strength 0."""
_NEGLIGIBLE: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The sketches as they fit their scene."""

    fields: list[Field]
    """One a sketch."""
    init: Field | None = None
    """The init image in some of the chosen figure's colours, where the picture begins with one."""
    yields: float = 0
    """The strength where the init image gives way to the sketch."""


def adapted(scene: Scene) -> Adapted:
    """Return the scene's sketches as they fit it."""
    sheets = [_drawn(sheet, scene) for sheet in scene.sketches.sheets]
    if not scene.whole or scene.known is None:
        return Adapted([2 * sheet - 1 for sheet in sheets])
    behind, like = _init(scene, scene.known, sheets[scene.chosen])
    if scene.keep is None:
        sheets = [_leaning(sheet, scene.known, scene.strength) for sheet in sheets]
    fields = [2 * (sheet + (1 - sheet[3]) * behind) - 1 for sheet in sheets]
    return Adapted(fields, 2 * like - 1, _YIELDS if scene.keep is None else _YIELDS_IN_HOLE)


def meant(scene: Scene) -> Field:
    """Return the one picture to follow: the seed's choice, or the init image where little may change."""
    found = adapted(scene)
    return found.fields[scene.chosen] if found.init is None or scene.strength > found.yields else found.init


def _drawn(sheet: Sheet, scene: Scene) -> Sheet:
    return sheet if scene.edges is None else coloured(sheet, scene.edges)


def _init(scene: Scene, known: Sheet, sheet: Sheet) -> tuple[Sheet, Sheet]:
    """Return what lies behind a new figure, and the init image in some of that figure's colours."""
    if scene.keep is not None:
        behind = without_hole(known, scene.keep) if scene.strength > _HALFWAY else known
        return behind, known
    found = figure(known)
    if found is None:
        return known, _tinted(known, sheet, sheet[3] > _HALFWAY, scene.strength)
    box = bounds(found[0])
    assert box is not None, "a found figure has cells"
    return found[1], _tinted(known, stretched(sheet, box), found[0], scene.strength)


def _leaning(sheet: Sheet, known: Sheet, strength: float) -> Sheet:
    """Give the figure some of the init image's colours where it stands, the more the less strength."""
    share = np.float32(_LEANS * (1 - strength))
    colours = sheet[:3] + share * (box_mean(known[:3], _SOFT) * sheet[3] - sheet[:3])
    return np.concatenate([colours, sheet[3:]])


def _tinted(known: Sheet, sheet: Sheet, where: Mask, strength: float) -> Sheet:
    """Move the figure's colours towards the sheet's, and leave its details."""
    inside = where.astype(np.float32)
    solid = (sheet[3] > _HALFWAY).astype(np.float32)
    colours = spread(sheet / np.maximum(sheet[3], _NEGLIGIBLE), solid)
    area = np.maximum(box_mean(inside, _SOFT), np.float32(_NEGLIGIBLE))
    change = box_mean((colours - known) * inside, _SOFT) / area
    return np.clip(known + np.float32(strength) * inside * change, 0, 1)
