"""Pictures on their way to a vendor and back: measured before they are decoded, bounded, converted where they must be.

`prepare` makes the inputs of an order what a vendor takes; `picture_of` and `decode_base64` check what comes back.
Everything that decodes pixels says so: call it in a thread.
"""

import binascii
import io
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import pybase64
from PIL import Image

from gateway.core.images import ImageFacts, ImageFault, measure
from gateway.core.reports import Outcome, Picture, UpstreamFault
from gateway.ports import CallOrder
from protocol.messages import ImageFormat

MOST_PIXELS: Final = 16_777_216
"""What an image may have before we decode it, in or out: the protocol's own limit."""
_DEEP_GREY: Final = ("I", "I;16", "I;16B")
"""Pillow's modes of grey pictures with 16 bits."""
_SIZED_ROLES: Final = frozenset({"init", "mask"})


# ------------------------------------------------------------------------------------------------------- to the vendor


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a vendor takes input images."""

    formats: frozenset[ImageFormat] = frozenset({"png", "jpeg"})
    """Encodings that it takes; others become PNG."""
    sized: bool = True
    """Whether init and mask must have the request's size, or else, below, each other's."""
    mask_like_init: bool = False
    """Whether only the mask is brought to a size: the init's."""


def needs_preparing(order: CallOrder, wanted: Wanted) -> bool:
    """Whether an input must be converted before the vendor takes it; raises `UpstreamFault` if it can't be used."""
    fitting = [_fits(order, slot, facts_of(slot, content), wanted) for slot, content in order.inputs.items()]
    return not all(fitting)


def prepare(order: CallOrder, wanted: Wanted) -> CallOrder:
    """Return the order with its inputs as the vendor takes them. Decodes pixels."""
    inputs = {slot: _converted(order, slot, content, wanted) for slot, content in order.inputs.items()}
    return replace(order, inputs=inputs)


def facts_of(slot: str, content: bytes) -> ImageFacts:
    """Return what an input's header says; raises `UpstreamFault` if it can't be used."""
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise _bad_input(slot, fault.code, fault.message) from None
    if facts.width * facts.height > MOST_PIXELS:
        raise _bad_input(slot, "payload_too_large", f"an input image has at most {MOST_PIXELS} pixels")
    return facts


def opened(slot: str, content: bytes) -> Image.Image:
    """Return an input decoded, eight bits a channel. Decodes pixels; raises `UpstreamFault`."""
    facts = facts_of(slot, content)
    try:
        with Image.open(io.BytesIO(content), formats=[facts.format.upper()]) as image:
            image.load()
            return _eight_bits(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _bad_input(slot, "image_decode_failed", "the image is broken") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow would cut such values at 255 instead of scaling them.
    return image.convert("I").point(lambda value: value / 257).convert("L") if image.mode in _DEEP_GREY else image


def as_png(image: Image.Image) -> bytes:
    """Return an image encoded as PNG."""
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()


def _bad_input(slot: str, code: str, message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.FAILED, code, message, details={"path": "inputs", "role": slot})


def _size_for(order: CallOrder, slot: str, wanted: Wanted) -> tuple[int, int] | None:
    """The size that an input must have; `None` = any."""
    if wanted.mask_like_init:
        init = order.inputs.get("init")
        if slot != "mask" or init is None:
            return None
        facts = facts_of("init", init)
        return facts.width, facts.height
    return (order.request.width, order.request.height) if wanted.sized and slot in _SIZED_ROLES else None


def _fits(order: CallOrder, slot: str, facts: ImageFacts, wanted: Wanted) -> bool:
    size = _size_for(order, slot, wanted)
    return facts.format in wanted.formats and size in (None, (facts.width, facts.height))


def _converted(order: CallOrder, slot: str, content: bytes, wanted: Wanted) -> bytes:
    facts = facts_of(slot, content)
    if _fits(order, slot, facts, wanted):
        return content
    # A mask is as good as its grey values; any other image keeps its alpha.
    mode = "L" if slot == "mask" else "RGBA" if facts.has_alpha else "RGB"
    image = opened(slot, content).convert(mode)
    size = _size_for(order, slot, wanted)
    return as_png(image if size is None else image.resize(size, Image.Resampling.LANCZOS))


# ----------------------------------------------------------------------------------------------------- from the vendor


def unusable(message: str, *, charged: bool = True) -> UpstreamFault:
    """Return the fault of an answer that is no good; `charged` whether the vendor's work is billed all the same."""
    return UpstreamFault(Outcome.FAILED, "invalid_output", message, charged=charged)


def picture_of(content: bytes, formats: Collection[ImageFormat] = ("png", "jpeg", "webp")) -> Picture:
    """Return a picture by what its header says; raises `UpstreamFault` `invalid_output`."""
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise unusable(fault.message) from None
    if facts.format not in formats or facts.width * facts.height > MOST_PIXELS:
        raise unusable(f"a picture is {facts.format} of {facts.width}x{facts.height}")
    return Picture(content, facts.format, facts.width, facts.height)


def decode_base64(raw: msgspec.Raw | memoryview | bytes) -> bytes:
    """Return the bytes of a JSON value that is base64 text, straight from where it lies; empty for `null`.

    A `data:` address counts from its comma on. Raises `UpstreamFault` `invalid_output`.
    """
    view = memoryview(raw)
    if bytes(view[:5]) == b"null":
        return b""
    if bytes(view[:1]) != b'"':
        raise unusable("a picture is not base64")
    if bytes(view[1:6]) == b"data:":
        return _from_text(msgspec.json.decode(raw, type=str).partition(",")[2])
    try:
        return pybase64.b64decode(view[1:-1], validate=True)
    except (binascii.Error, ValueError):
        # JSON may write "/" as "\/"; nobody is known to, so this comes second.
        return _from_text(msgspec.json.decode(raw, type=str))


def _from_text(text: str) -> bytes:
    try:
        return pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise unusable("a picture is not base64") from None
