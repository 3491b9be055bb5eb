"""Stability AI's v2beta: the fields of its forms, with its bounds. Unknown ones are ignored, as by the vendor."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from gateway.edges.compat.stability_both import Style

Format = Literal["png", "jpeg", "webp"]
Ratio = Literal["21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"]
Sd3Model = Literal[
    "sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash", "sd3-large", "sd3-large-turbo", "sd3-medium"
]
Share = Annotated[float, Meta(ge=0, le=1)]
_Prompt = Annotated[str, Meta(min_length=1, max_length=10_000)]
_Words = Annotated[str, Meta(max_length=10_000)]
_Seed = Annotated[int, Meta(ge=0, le=4_294_967_294)]
_Side = Annotated[int, Meta(ge=0, le=2000)]
_Growth = Annotated[float, Meta(ge=0, le=20)]
"""Checked and ignored: a mask is taken as it is."""


class Form(Struct, frozen=True, kw_only=True):
    """What all services take."""

    output_format: Format = "png"


class Seeded(Form, frozen=True, kw_only=True):
    """Of most services."""

    negative_prompt: _Words | None = None
    seed: _Seed | None = None
    """0 is any."""


class Styled(Seeded, frozen=True, kw_only=True):
    """Of those that draw."""

    prompt: _Prompt
    style_preset: Style | None = None


class Core(Styled, frozen=True, kw_only=True):
    """`generate/core`."""

    aspect_ratio: Ratio | None = None


class Ultra(Core, frozen=True, kw_only=True):
    """`generate/ultra`: with an `image`, how much of it is changed."""

    strength: Share | None = None
    """1 ignores the image."""


class Sd3(Ultra, frozen=True, kw_only=True):
    """`generate/sd3`."""

    mode: Literal["text-to-image", "image-to-image"] = "text-to-image"
    model: Sd3Model | None = None
    cfg_scale: Annotated[float, Meta(ge=1, le=10)] | None = None


class Inpaint(Styled, frozen=True, kw_only=True):
    """`edit/inpaint`."""

    grow_mask: Annotated[float, Meta(ge=0, le=100)] | None = None
    """Checked and ignored, as `_Growth`."""


class Outpaint(Form, frozen=True, kw_only=True):
    """`edit/outpaint`: by how many pixels each side grows."""

    prompt: _Words | None = None
    seed: _Seed | None = None
    style_preset: Style | None = None
    creativity: Share | None = None
    """Checked and ignored, as in the upscales: no model here has a word for it."""
    left: _Side = 0
    right: _Side = 0
    up: _Side = 0
    down: _Side = 0


class SearchReplace(Styled, frozen=True, kw_only=True):
    """`edit/search-and-replace`."""

    search_prompt: _Prompt
    grow_mask: _Growth | None = None


class RemoveBackground(Form, frozen=True, kw_only=True):
    """`edit/remove-background`: what remains has an alpha channel, which JPEG has not."""

    output_format: Literal["png", "webp"] = "png"


class Control(Styled, frozen=True, kw_only=True):
    """`control/sketch` and `control/structure`."""

    control_strength: Share = 0.7


class StyleGuide(Core, frozen=True, kw_only=True):
    """`control/style`."""

    fidelity: Share | None = None


class StyleTransfer(Seeded, frozen=True, kw_only=True):
    """`control/style-transfer`."""

    prompt: _Words | None = None
    style_strength: Share = 1.0
    composition_fidelity: Share | None = None
    """Checked and ignored: `change_strength` says as much."""
    change_strength: Annotated[float, Meta(ge=0.1, le=1)] = 0.9


class Conservative(Seeded, frozen=True, kw_only=True):
    """`upscale/conservative`."""

    prompt: _Prompt
    creativity: Annotated[float, Meta(ge=0.2, le=0.5)] | None = None


class Creative(Styled, frozen=True, kw_only=True):
    """`upscale/creative`."""

    creativity: Annotated[float, Meta(ge=0.1, le=0.5)] | None = None
