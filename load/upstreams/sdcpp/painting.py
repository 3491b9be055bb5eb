"""An order's pictures: what each pixel is, and the file it comes in.

Seed and wording give one colour. With an init picture the result lies `strength` of the way from it to the colour,
inside the mask's white part if there is a mask; outside, the init picture's pixels stay as they are. A control
picture is mixed in last, by half of `control_strength`. Reference and adapter pictures change nothing.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from load.upstreams import pictures
from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.infotext import infotext
from load.upstreams.sdcpp.orders import Order
from load.upstreams.sdcpp.uploads import fit

_HEADER_END = 33
"""Where a PNG's first chunk, which has a fixed length, ends."""
_HALF = 128
_DEFAULT_QUALITY = 90
_CONTROL_SHARE = 0.5


def paint(order: Order, shop: Shop, at_least: int = 0) -> list[bytes]:
    """The order's pictures as files, each of `at_least` bytes if they are PNG."""
    return [_file(order, shop, order.seed + number, at_least) for number in range(order.batch)]


def is_plain(order: Order) -> bool:
    """Whether the pictures are flat PNG, made in microseconds; all others belong in a thread."""
    return order.init is None and order.control is None and order.format == "png"


def _file(order: Order, shop: Shop, seed: int, at_least: int) -> bytes:
    colour = pictures.colour_of(seed, order.wording)
    if is_plain(order):
        png = pictures.flat_png(*order.final_size(shop), colour)
    else:
        picture = _picture(order, shop, colour)
        if order.format != "png":
            return _compressed(picture, order)
        png = _encode(picture, "PNG", compress_level=1)
    if order.embed_metadata:
        png = _with_text(png, "parameters", infotext(order, shop, seed))
    return pictures.padded(png, at_least)


def _picture(order: Order, shop: Shop, colour: pictures.Colour) -> Image.Image:
    size = order.canvas(shop)
    picture = Image.new("RGB", size, colour)
    if order.init is not None:
        picture = _over_init(order, fit(order.init, size), picture)
    if order.control is not None:
        share = max(0.0, min(order.control_strength, 1.0)) * _CONTROL_SHARE
        picture = Image.blend(picture, fit(order.control, size), share)
    return picture.resize(order.final_size(shop), Image.Resampling.NEAREST)


def _over_init(order: Order, init: Image.Image, colour: Image.Image) -> Image.Image:
    changed = Image.blend(init, colour, order.strength)
    if order.mask is None:
        return changed
    # The server rounds a mask to black and white.
    edit = fit(order.mask, init.size).point(lambda level: 255 if level >= _HALF else 0)
    return Image.composite(changed, init, edit)


def _compressed(picture: Image.Image, order: Order) -> bytes:
    if order.format == "webp":
        return _encode(picture, "WEBP", quality=order.compression)
    # 0 is no quality of this encoder: it stands for its default.
    return _encode(picture, "JPEG", quality=order.compression or _DEFAULT_QUALITY)


def _encode(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _with_text(png: bytes, keyword: str, text: str) -> bytes:
    data = keyword.encode() + b"\0" + text.encode()
    chunk = struct.pack(">I", len(data)) + b"tEXt" + data + struct.pack(">I", zlib.crc32(b"tEXt" + data))
    return png[:_HEADER_END] + chunk + png[_HEADER_END:]
