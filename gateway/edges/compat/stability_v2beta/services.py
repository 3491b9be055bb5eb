"""Stability AI's v2beta: its services by path, what their forms hold, and how these are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.edges.compat.stability_v2beta import asks, fields
from gateway.edges.compat.stability_v2beta.asks import Ask, Pictures


@dataclass(frozen=True, slots=True)
class Service:
    """One path below `/v2beta/stable-image/`."""

    path: str
    form: type[fields.Form]
    read: Callable[[Any, Pictures], Ask]
    """A form of that kind and the pictures -> what they ask for."""
    pictures: tuple[str, ...] = ("image",)
    """Fields that are files."""
    is_masked: bool = False
    """Whether what is transparent in `image` is the mask where none is sent."""
    is_async: bool = False
    """Whether an id is the answer, and the picture is asked for by that."""


SERVICES: Final = (
    Service("generate/core", fields.Core, asks.core, ()),
    Service("generate/ultra", fields.Ultra, asks.ultra),
    Service("generate/sd3", fields.Sd3, asks.sd3),
    Service("edit/inpaint", fields.Inpaint, asks.inpaint, ("image", "mask"), is_masked=True),
    Service("edit/outpaint", fields.Outpaint, asks.outpaint),
    Service("edit/search-and-replace", fields.SearchReplace, asks.search_replace),
    Service("edit/remove-background", fields.RemoveBackground, asks.remove_background),
    Service("control/sketch", fields.Control, asks.sketch),
    Service("control/structure", fields.Control, asks.structure),
    Service("control/style", fields.StyleGuide, asks.style),
    Service("control/style-transfer", fields.StyleTransfer, asks.style_transfer, ("init_image", "style_image")),
    Service("upscale/fast", fields.Form, asks.fast),
    Service("upscale/conservative", fields.Conservative, asks.conservative),
    Service("upscale/creative", fields.Creative, asks.creative, is_async=True),
)
