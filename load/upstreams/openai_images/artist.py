"""The pictures of an order: one colour for each seed, and the upload's own pixels where they must stay."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from PIL import Image, ImageChops

from load.upstreams import pictures
from load.upstreams.openai_images.fields import refuse
from load.upstreams.openai_images.models import Size
from load.upstreams.openai_images.orders import Order, OutputFormat
from load.upstreams.pictures import BLUR, Colour, PictureError

SUBJECT = 0.5
"""Share of each side that the opaque subject of a transparent picture takes, in the middle."""
_LOSSY_BEST = 95


def partial_colour(colour: Colour, index: int, count: int) -> Colour:
    """The colour of a partial picture: grey at first, and evenly nearer to the final colour with each."""
    share = (index + 1) / (count + 1)
    red, green, blue = (round(grey + (end - grey) * share) for grey, end in zip(BLUR, colour, strict=True))
    return red, green, blue


async def draw(order: Order, colour: Colour, least_bytes: int = 0) -> bytes:
    """A file of the order's format; raises `Refusal` for an upload that can't be decoded."""
    if not order.image and order.output_format == "png" and order.background == "opaque":
        made = pictures.flat_png(*order.size, colour)
    else:
        # Pillow takes its time and needs no turn of the loop.
        made = await asyncio.to_thread(_drawn, order, colour)
    return pictures.padded(made, least_bytes) if order.output_format == "png" else made


def subject_box(size: Size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is opaque in a transparent picture of this size."""
    width, height = size
    left, top = round(width * (1 - SUBJECT) / 2), round(height * (1 - SUBJECT) / 2)
    return left, top, width - left, height - top


def _drawn(order: Order, colour: Colour) -> bytes:
    picture = _edited(order, colour) if order.image else Image.new("RGB", order.size, colour)
    if order.background == "transparent":
        alpha = Image.new("L", order.size, 0)
        alpha.paste(255, subject_box(order.size))
        picture.putalpha(alpha)
    return _encoded(picture, order.output_format, order.compression)


def _edited(order: Order, colour: Colour) -> Image.Image:
    try:
        return _decoded(_painted(order, colour)).resize(order.size, Image.Resampling.NEAREST)
    except PictureError:
        refuse("invalid_image_file", "The image is damaged.", "image")


def _painted(order: Order, colour: Colour) -> bytes:
    if order.mask_source is None:
        return pictures.blend(order.image, colour, order.keep)
    if order.mask is not None and order.mask_source == "INIT_IMAGE_ALPHA":
        return pictures.repaint(order.image, _white_where_transparent(order.mask), "MASK_IMAGE_WHITE", colour)
    return pictures.repaint(order.image, order.mask, order.mask_source, colour)


def _white_where_transparent(mask: bytes) -> bytes:
    return _encoded(ImageChops.invert(_decoded(mask).convert("RGBA").getchannel("A")), "png", 100)


def _decoded(data: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(str(error)) from error
    return picture


def _encoded(picture: Image.Image, output_format: OutputFormat, compression: int) -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": min(compression, _LOSSY_BEST)}
    if output_format == "png":
        options = {"compress_level": 1}
    elif output_format == "webp" and compression == 100:
        options = {"lossless": True}
    picture.save(out, output_format.upper(), **options)
    return out.getvalue()
