"""Input images as stable-diffusion.cpp's server needs them: PNG or JPEG, of the result's size, with three channels.

The server refuses grey pictures, and the request with them. It drops alpha where it should blend, so that what nobody
could see comes out: transparent pictures are laid on white here. It crops what has another shape, and so the mask or
the control image would no longer lie where the init image does: all are brought to the size here.
"""

import asyncio
import io
from dataclasses import replace
from typing import Final

from PIL import Image

from gateway.core.images import ImageFacts
from gateway.ports import CallOrder
from gateway.upstreams.pictures import as_png, facts_of, opened

_FORMATS: Final = frozenset({"png", "jpeg"})
"""WebP is read only by builds that have its library."""
_MASK_MODES: Final = frozenset({"1", "L", "RGB"})


async def fitted(order: CallOrder) -> CallOrder:
    """Return the order with inputs that the server takes; decodes in a thread. Raises `UpstreamFault`."""
    if all(_fits(order, slot, content, facts_of(slot, content)) for slot, content in order.inputs.items()):
        return order
    return await asyncio.to_thread(_converted, order)


def _fits(order: CallOrder, slot: str, content: bytes, facts: ImageFacts) -> bool:
    if facts.format not in _FORMATS or (facts.width, facts.height) != (order.request.width, order.request.height):
        return False
    mode = _mode(content, facts)
    return mode in _MASK_MODES if slot == "mask" else mode == "RGB" and not facts.has_alpha


def _mode(content: bytes, facts: ImageFacts) -> str:
    """Pillow's word for the channels, from the header: no pixel is decoded. Empty if that is beyond Pillow."""
    try:
        with Image.open(io.BytesIO(content), formats=[facts.format.upper()]) as image:
            return image.mode
    except (OSError, ValueError, SyntaxError):
        return ""


def _converted(order: CallOrder) -> CallOrder:
    size = (order.request.width, order.request.height)
    inputs = dict(order.inputs)
    for slot, content in order.inputs.items():
        facts = facts_of(slot, content)
        if _fits(order, slot, content, facts):
            continue
        image = opened(slot, content)
        image = image.convert("L") if slot == "mask" else _on_white(image) if facts.has_alpha else image.convert("RGB")
        inputs[slot] = as_png(image.resize(size, Image.Resampling.LANCZOS))
    return replace(order, inputs=inputs)


def _on_white(image: Image.Image) -> Image.Image:
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
