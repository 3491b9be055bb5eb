"""Which size of a model's a request means: the vendor's have no width and height, so these choose. No I/O.

Each returns the names inside `params` of a task that say the size; none where the model has no word for it.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any, Final

from gateway.core.models import Model
from gateway.core.reports import Picture
from gateway.edges.compat.stability_v2beta.tables import RATIOS
from protocol.errors import ClientFault

Sizing = Callable[[Model, str], dict[str, Any]]
"""Model and task -> params."""
FOUR_MEGAPIXELS: Final = 4_194_304
_LARGEST_SCALE: Final = 8.0


def shaped(ratio: str) -> Sizing:
    """Return what finds the size of a ratio that has the area of the model's usual one, or nearly."""

    def find(model: Model, task: str) -> dict[str, Any]:
        width, height = model.default_size
        area, wide = width * height, RATIOS[ratio]
        return _nearest(model, task, round(sqrt(area * wide)), round(sqrt(area / wide)))

    return find


def like(picture: Picture) -> Sizing:
    """Return what finds the size that is nearest to a picture's."""
    return lambda model, task: _nearest(model, task, picture.width, picture.height)


def kept(picture: Picture) -> Sizing:
    """As `like`, but says nothing where the init picture's own will do."""
    return lambda model, task: {} if _draws(model, task, picture.width, picture.height) else like(picture)(model, task)


def enlarged(picture: Picture, factor: float) -> Sizing:
    """Return what makes each edge so many times longer, or as much as the model can; never shorter."""
    factor = min(max(factor, 1.0), _LARGEST_SCALE)
    edges = (round(picture.width * factor), round(picture.height * factor))

    def find(model: Model, task: str) -> dict[str, Any]:
        if not _draws(model, task, *edges):
            width, height = model.sizes_of(task).nearest(*edges)
            if width >= picture.width and height >= picture.height:
                return _known(model, task, width, height)
        return {"scale": factor}  # also where nothing fits: admission says why

    return find


def factor_to(pixels: int, picture: Picture) -> float:
    """Return how many times longer a picture's edges are when it has so many pixels."""
    return round(sqrt(pixels / (picture.width * picture.height)), 4)


def _nearest(model: Model, task: str, width: int, height: int) -> dict[str, Any]:
    return _known(model, task, *model.sizes_of(task).nearest(width, height))


def _known(model: Model, task: str, width: int, height: int) -> dict[str, Any]:
    return {"width": width, "height": height} if {"width", "height"} <= model.tasks[task] else {}


def _draws(model: Model, task: str, width: int, height: int) -> bool:
    try:
        model.sizes_of(task).check(width, height)
    except ClientFault:
        return False
    return True
