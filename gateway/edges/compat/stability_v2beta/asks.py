"""Stability AI's v2beta: what its requests ask for in our words. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from gateway.core.reports import Picture
from gateway.edges.compat.dialect import Sent, Wish
from gateway.edges.compat.stability_v2beta import fields, sizes
from gateway.edges.compat.stability_v2beta.sizes import Sizing
from gateway.edges.compat.stability_v2beta.tables import (
    CORE,
    HINTS,
    OF_UPSCALES,
    SD3,
    SERVICES,
    SUCCESSORS,
    ULTRA,
)
from protocol.errors import ClientFault

Pictures = Mapping[str, Picture]
"""What came along, by the vendor's names."""
_IDLE: Final = ("grow_mask", "creativity", "composition_fidelity")
"""Fields that are checked and ignored."""
_FIDELITY: Final = 0.5
_FAST: Final = 4.0
_MOST_CONSERVATIVE: Final = 4.0
_CREATIVE: Final = 4.5
"""Times longer edges, some 20 times the pixels. More than 4 is what tells a creative upscale from a conservative one
where the vendor's own is behind the gateway."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, read: what may do it, best first."""

    wishes: tuple[Wish, ...]
    size: Sizing | None = None
    """`None` = it follows from the pictures, or is the model's own."""
    ignored: tuple[str, ...] = ()
    """What the service has a name for, and nothing here an effect."""
    sized_by: str | None = None
    """The field that says the size, which is ignored where the model has no word for that."""
    is_named: bool = False
    """Whether the client named the model; else the service did, and where it is unknown anything will do."""


# --- generate ---


def core(asked: fields.Core, _: Pictures) -> Ask:
    """Return what a `generate/core` asks for."""
    return _drawn(asked, (_wish("txt2img", CORE, _styled(asked)),))


def ultra(asked: fields.Ultra, pictures: Pictures) -> Ask:
    """Return what a `generate/ultra` asks for, with or without an image. Raises `ClientFault`."""
    image = pictures.get("image")
    if image is None:
        if asked.strength is not None:
            _refuse("strength", "only valid with image")
        return _drawn(asked, (_wish("txt2img", ULTRA, _styled(asked)),))
    if asked.strength is None:
        _refuse("strength", "is required with image")
    return _redrawn(asked, image, ULTRA)


def sd3(asked: fields.Sd3, pictures: Pictures) -> Ask:
    """Return what a `generate/sd3` asks for, in either mode. Raises `ClientFault`."""
    name = SD3 if asked.model is None else SUCCESSORS.get(asked.model, asked.model)
    is_named = asked.model is not None
    image = pictures.get("image")
    if asked.mode == "image-to-image":
        if image is None or asked.strength is None:
            _refuse("image" if image is None else "strength", "is required for image-to-image")
        if asked.aspect_ratio is not None:
            _refuse("aspect_ratio", "only valid for text-to-image")
        return _redrawn(asked, image, name, {"guidance": asked.cfg_scale}, is_named=is_named)
    if image is not None or asked.strength is not None:
        _refuse("strength" if image is None else "image", "only valid for image-to-image")
    wish = _wish("txt2img", name, {**_styled(asked), "guidance": asked.cfg_scale})
    return _drawn(asked, (wish,), is_named=is_named)


def _drawn(asked: fields.Core, wishes: tuple[Wish, ...], *, is_named: bool = False) -> Ask:
    ratio = asked.aspect_ratio
    if ratio is None:
        return Ask(wishes, is_named=is_named)
    return Ask(wishes, sizes.shaped(ratio), sized_by="aspect_ratio", is_named=is_named)


def _redrawn(
    asked: fields.Ultra, image: Picture, name: str, more: Mapping[str, Any] | None = None, *, is_named: bool = False
) -> Ask:
    params = {**_styled(asked), "strength": asked.strength, **(more or {})}
    wish = _wish("img2img", name, params, Sent("init", image.content, "image"))
    # The picture has the image's shape, whatever is said.
    ignored = () if asked.aspect_ratio is None else ("aspect_ratio",)
    return Ask((wish,), sizes.kept(image), ignored, is_named=is_named)


# --- edit ---


def inpaint(asked: fields.Inpaint, pictures: Pictures) -> Ask:
    """Return what an `edit/inpaint` asks for; the mask is white where the picture changes. Raises `ClientFault`."""
    image = _needed(pictures, "image")
    sent = (Sent("init", image.content, "image"), Sent("mask", _needed(pictures, "mask").content, "mask"))
    # What is white is replaced, and not only changed: the vendor's mask is all there is of a strength.
    wish = _wish("inpaint", SERVICES, _styled(asked), *sent, defaults={"strength": 1.0})
    return Ask((wish,), sizes.kept(image), _idle(asked))


def outpaint(asked: fields.Outpaint, pictures: Pictures) -> Ask:
    """Return what an `edit/outpaint` asks for. Raises `ClientFault`."""
    image = _needed(pictures, "image")
    expand = {"left": asked.left, "right": asked.right, "up": asked.up, "down": asked.down}
    if not any(expand.values()):
        _refuse("left, right, up, down", "at least one must be non-zero")
    params = {
        "prompt": asked.prompt or None,
        "seed": asked.seed or None,
        "style": asked.style_preset,
        "expand": expand,
    }
    return Ask((_wish("outpaint", SERVICES, params, Sent("init", image.content, "image")),), ignored=_idle(asked))


def search_replace(asked: fields.SearchReplace, pictures: Pictures) -> Ask:
    """Return what an `edit/search-and-replace` asks for. Raises `ClientFault`."""
    image = _needed(pictures, "image")
    params = {**_styled(asked), "search": asked.search_prompt}
    wish = _wish("search_replace", SERVICES, params, Sent("init", image.content, "image"))
    return Ask((wish,), sizes.kept(image), _idle(asked))


def remove_background(_: fields.RemoveBackground, pictures: Pictures) -> Ask:
    """Return what an `edit/remove-background` asks for. Raises `ClientFault`."""
    image = _needed(pictures, "image")
    return Ask((_wish("remove_background", SERVICES, {}, Sent("init", image.content, "image")),), sizes.kept(image))


# --- control ---


def sketch(asked: fields.Control, pictures: Pictures) -> Ask:
    """Return what a `control/sketch` asks for. Raises `ClientFault`."""
    return _controlled("sketch", asked, pictures)


def structure(asked: fields.Control, pictures: Pictures) -> Ask:
    """Return what a `control/structure` asks for. Raises `ClientFault`."""
    return _controlled("structure", asked, pictures)


def style(asked: fields.StyleGuide, pictures: Pictures) -> Ask:
    """Return what a `control/style` asks for: a new picture after a reference. Raises `ClientFault`."""
    image = _needed(pictures, "image").content
    params = _styled(asked)
    # Some models weigh no reference and refuse a weight, so none is sent that was not asked for.
    reference = Sent("reference", image, "image", weight=asked.fidelity)
    control = Sent("style", image, "image", weight=_FIDELITY if asked.fidelity is None else asked.fidelity)
    wishes = (_wish("reference", SERVICES, params, reference), _wish("controlnet", SERVICES, params, control))
    return _drawn(asked, wishes)


def style_transfer(asked: fields.StyleTransfer, pictures: Pictures) -> Ask:
    """Return what a `control/style-transfer` asks for: a picture painted over after another. Raises `ClientFault`."""
    init, image = _needed(pictures, "init_image"), _needed(pictures, "style_image")
    sent = (
        Sent("init", init.content, "init_image"),
        Sent("style", image.content, "style_image", weight=asked.style_strength),
    )
    params = {**_seeded(asked), "prompt": asked.prompt or None, "strength": asked.change_strength}
    return Ask((_wish("controlnet", SERVICES, params, *sent),), sizes.kept(init), _idle(asked))


def _controlled(kind: str, asked: fields.Control, pictures: Pictures) -> Ask:
    image = _needed(pictures, "image")
    control = Sent(kind, image.content, "image", weight=asked.control_strength, is_raw=True)
    return Ask((_wish("controlnet", SERVICES, _styled(asked), control),), sizes.like(image))


# --- upscale ---


def fast(_: fields.Form, pictures: Pictures) -> Ask:
    """Return what an `upscale/fast` asks for: four times each edge. Raises `ClientFault`."""
    return _enlarged({}, _needed(pictures, "image"), _FAST)


def conservative(asked: fields.Conservative, pictures: Pictures) -> Ask:
    """Return what an `upscale/conservative` asks for: some four million pixels. Raises `ClientFault`."""
    image = _needed(pictures, "image")
    factor = min(sizes.factor_to(sizes.FOUR_MEGAPIXELS, image), _MOST_CONSERVATIVE)
    return _enlarged({**_seeded(asked), "prompt": asked.prompt}, image, factor, _idle(asked))


def creative(asked: fields.Creative, pictures: Pictures) -> Ask:
    """Return what an `upscale/creative` asks for. Raises `ClientFault`."""
    return _enlarged(_styled(asked), _needed(pictures, "image"), _CREATIVE, _idle(asked))


def _enlarged(params: dict[str, Any], image: Picture, factor: float, ignored: tuple[str, ...] = ()) -> Ask:
    wish = Wish(
        "upscale", params, SERVICES, (Sent("init", image.content, "image"),), hints=OF_UPSCALES, has_preset=True
    )
    return Ask((wish,), sizes.enlarged(image, factor), ignored)


# --- of all ---


def _wish(
    task: str, model: str, params: Mapping[str, Any], *sent: Sent, defaults: Mapping[str, Any] | None = None
) -> Wish:
    return Wish(task, params, model, sent, HINTS, defaults or {}, has_preset=True)


def _seeded(asked: fields.Seeded) -> dict[str, Any]:
    return {"negative_prompt": asked.negative_prompt or None, "seed": asked.seed or None}


def _styled(asked: fields.Styled) -> dict[str, Any]:
    return {**_seeded(asked), "prompt": asked.prompt, "style": asked.style_preset}


def _idle(asked: fields.Form) -> tuple[str, ...]:
    return tuple(name for name in _IDLE if getattr(asked, name, None) is not None)


def _needed(pictures: Pictures, name: str) -> Picture:
    if name not in pictures:
        _refuse(name, "is required")
    return pictures[name]


def _refuse(name: str, message: str) -> NoReturn:
    raise ClientFault("invalid_param", message, details={"path": name})
