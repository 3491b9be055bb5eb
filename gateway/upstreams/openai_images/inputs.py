"""Input images as servers of the OpenAI Images API take them: formats, and masks in the dialect's own terms."""

from dataclasses import replace
from typing import Final

from PIL import Image, ImageChops

from gateway.ports import CallOrder
from gateway.upstreams.openai_images.models import Way
from gateway.upstreams.pictures import Wanted, as_png, facts_of, needs_preparing, opened, prepare

_MASK: Final = "mask"


def must_prepare(order: CallOrder, way: Way) -> bool:
    """Whether an input must be converted first; raises `UpstreamFault` if one can't be used."""
    if _MASK in order.inputs:
        facts_of(_MASK, order.inputs[_MASK])
    return needs_preparing(_without_mask(order), _wanted(way)) or _MASK in order.inputs


def prepared(order: CallOrder, way: Way) -> CallOrder:
    """Return the order with its inputs as the vendor takes them, the first image first. Decodes pixels."""
    images = dict(prepare(_without_mask(order), _wanted(way)).inputs)
    if _MASK in order.inputs:
        first_slot, first = next(iter(images.items()))
        facts = facts_of(first_slot, first)
        images[_MASK] = _mask(order.inputs[_MASK], (facts.width, facts.height), way)
    return replace(order, inputs=images)


def _without_mask(order: CallOrder) -> CallOrder:
    return replace(order, inputs={slot: content for slot, content in order.inputs.items() if slot != _MASK})


def _wanted(way: Way) -> Wanted:
    # One model takes squares alone, which its results are; any other looks at an image of whatever shape.
    return Wanted(way.takes, sized=way.family.square)


def _mask(content: bytes, size: tuple[int, int], way: Way) -> bytes:
    """Return a white-means-edit mask in the dialect's own terms, of the first image's size."""
    white = opened(_MASK, content).convert("L")
    if white.size != size:
        white = white.resize(size, Image.Resampling.LANCZOS)
    if way.dialect.mask == "white":
        return as_png(white)
    clear = Image.new("RGBA", size)
    clear.putalpha(ImageChops.invert(white))
    return as_png(clear)
