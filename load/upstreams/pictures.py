"""Pictures whose pixels can be checked: a seed and a prompt give one colour, everything else follows from it.

Flat pictures are put together from cached pieces of a deflate stream and cost tens of microseconds at any
size, because a load run draws a new colour for each request and a plain cache would never hit. Pictures that
depend on an upload go through Pillow, cost tens of milliseconds, and belong in a thread.
"""

from __future__ import annotations

import functools
import hashlib
import io
import random
import struct
import warnings
import zlib
from typing import Literal

from PIL import Image, ImageChops

Colour = tuple[int, int, int]
MaskSource = Literal["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"]

BLUR: Colour = (128, 128, 128)
"""The flat grey that takes a filtered picture's place."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_ADLER_BASE = 65521


class PictureError(ValueError):
    """The bytes are no picture that can be read."""


def colour_of(seed: int, prompt: str) -> Colour:
    """The colour a seed and a prompt stand for: the first three bytes of SHA-256 of `"<seed>:<prompt>"`."""
    red, green, blue = hashlib.sha256(f"{seed}:{prompt}".encode()).digest()[:3]
    return red, green, blue


@functools.lru_cache(maxsize=256)
def flat_png(width: int, height: int, colour: Colour) -> bytes:
    """An 8-bit RGB PNG of one colour."""
    # Row 0 is filtered "Sub" (the colour, then zeros), all others "Up" (zeros only), so only row 0 depends on
    # the colour. It is flushed to a byte boundary and the cached rest of the stream appended; the checksums
    # are joined.
    first = b"\x01" + bytes(colour) + bytes(3 * (width - 1))
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    opening = deflate.compress(first) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest, rest_adler, rest_length = _blank_rows(width, height - 1)
    checksum = _join_adlers(zlib.adler32(first), rest_adler, rest_length)
    stream = b"\x78\x01" + opening + rest + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", stream) + _END


def padded(png: bytes, at_least: int) -> bytes:
    """The same picture in a file of `at_least` bytes, filled up by a private chunk that readers skip.

    Real pictures weigh a megabyte and more; flat ones a few kilobytes. The filling does not compress.
    """
    missing = at_least - len(png) - 12
    return png if missing < 0 else png[:-12] + _filling(missing) + _END


def blend(init: bytes, colour: Colour, keep: float) -> bytes:
    """The init picture washed with the colour: `keep` 1 gives the picture's own pixels, 0 the flat colour."""
    picture = _open(init).convert("RGB")
    return _encode(Image.blend(Image.new("RGB", picture.size, colour), picture, keep))


def repaint(init: bytes, mask: bytes | None, source: MaskSource, colour: Colour) -> bytes:
    """The init picture with the colour where the mask says replace; its kept pixels are untouched.

    Grey, or partial alpha, mixes linearly. `mask` is needed for the two MASK_IMAGE sources and must have the
    init picture's size; for INIT_IMAGE_ALPHA it is ignored.
    """
    picture = _open(init)
    replace = _replace_weight(picture, mask, source)
    kept = picture.convert("RGB")
    return _encode(Image.composite(Image.new("RGB", kept.size, colour), kept, replace))


def enlarge(image: bytes, width: int, height: int) -> bytes:
    """The picture at another size, each pixel repeated."""
    return _encode(_open(image).convert("RGB").resize((width, height), Image.Resampling.NEAREST))


def measure(data: bytes) -> tuple[str, int, int]:
    """Media type, width and height from the head of a picture; raises `PictureError` if it is none."""
    try:
        with warnings.catch_warnings():
            # A huge size is a fact to report to the caller here, not yet a danger: nothing is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(str(error)) from error
    return Image.MIME.get(picture.format or "", "application/octet-stream"), picture.width, picture.height


def _open(data: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(str(error)) from error
    return picture.convert("RGBA") if "transparency" in picture.info else picture


def _replace_weight(picture: Image.Image, mask: bytes | None, source: MaskSource) -> Image.Image:
    if source == "INIT_IMAGE_ALPHA":
        return ImageChops.invert(picture.convert("RGBA").getchannel("A"))
    if mask is None:
        raise PictureError("a mask picture is needed")
    white = _open(mask).convert("L")
    return white if source == "MASK_IMAGE_WHITE" else ImageChops.invert(white)


def _encode(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@functools.lru_cache(maxsize=8)
def _filling(length: int) -> bytes:
    return _chunk(b"paDd", random.Random(0).randbytes(length))


@functools.lru_cache(maxsize=64)
def _blank_rows(width: int, rows: int) -> tuple[bytes, int, int]:
    raw = (b"\x02" + bytes(3 * width)) * rows
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return deflate.compress(raw) + deflate.flush(), zlib.adler32(raw), len(raw)


def _join_adlers(first: int, second: int, second_length: int) -> int:
    # Adler-32 of two strings joined, from their own: the low half sums bytes, the high half sums the low
    # halves.
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_BASE
    high = ((first >> 16) + (second >> 16) + second_length * ((first & 0xFFFF) - 1)) % _ADLER_BASE
    return high << 16 | low
