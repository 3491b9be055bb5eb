"""What an encoded image says of itself: format, size and alpha, read from its header alone. No pixel is decoded.

Everything here is bounded by the length of the bytes and a fixed number of steps, whatever they claim. The sizes are
what the header says, up to what the format can say: compare them with a limit before anything is decoded.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

from protocol.messages import ImageFormat

_MOST_STEPS: Final = 4096
"""Chunks, segments and fill bytes that we walk over in search of a size; a photograph has some 30."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the header says; edges in pixels, both at least 1."""

    format: ImageFormat
    width: int
    height: int
    has_alpha: bool


@dataclass(slots=True)
class ImageFault(Exception):
    """The bytes are no image that we take. `code` is the one of the error registry that a client is told."""

    code: Literal["unsupported_media", "image_decode_failed"]
    message: str

    def __post_init__(self) -> None:
        Exception.__init__(self, self.code, self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def measure(content: bytes | memoryview) -> ImageFacts:
    """Return what a PNG, JPEG or WebP image says of itself; raise `ImageFault` for anything else."""
    view = memoryview(content)
    start = bytes(view[:12])
    if start.startswith(_PNG):
        return _png(view)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg(view)
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return _webp(view)
    raise ImageFault("unsupported_media", "neither PNG nor JPEG nor WebP")


def _broken(why: str) -> ImageFault:
    return ImageFault("image_decode_failed", why)


def _take(view: memoryview, start: int, size: int) -> bytes:
    piece = bytes(view[start : start + size])
    if len(piece) < size:
        raise _broken("the image ends too early")
    return piece


def _sized(format: ImageFormat, width: int, height: int, *, has_alpha: bool) -> ImageFacts:
    if width == 0 or height == 0:
        raise _broken("the image has no pixels")
    return ImageFacts(format, width, height, has_alpha)


# ---- PNG: https://www.w3.org/TR/png-3/

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTHS: Final[dict[int, tuple[int, ...]]] = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}
"""The bit depths that each colour type may have."""
_PNG_ALPHA: Final = (4, 6)
"""Colour types with an alpha channel; the others can have it as a tRNS chunk."""


def _png(view: memoryview) -> ImageFacts:
    length, kind = struct.unpack(">I4s", _take(view, 8, 8))
    header = _take(view, 16, 17)
    if kind != b"IHDR" or length != 13:
        raise _broken("a PNG begins with an IHDR of 13 bytes")
    if struct.unpack(">I", header[13:])[0] != zlib.crc32(kind + header[:13]):
        raise _broken("the PNG header's checksum is wrong")
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    if depth not in _PNG_DEPTHS.get(colour, ()) or max(width, height) > 0x7FFFFFFF:
        raise _broken("the PNG header has values that no PNG can have")
    has_alpha = _png_has_transparency(view) or colour in _PNG_ALPHA
    return _sized("png", width, height, has_alpha=has_alpha)


def _png_has_transparency(view: memoryview) -> bool:
    """Whether a tRNS chunk comes before the first IDAT, which must come."""
    at = 33
    found = False
    for _ in range(_MOST_STEPS):
        length, kind = struct.unpack(">I4s", _take(view, at, 8))
        if kind == b"IDAT":
            return found
        if kind == b"IEND":
            raise _broken("the PNG has no pixels")
        found = found or kind == b"tRNS"
        at += 12 + length
    raise _broken("the PNG has too many chunks before its pixels")


# ---- JPEG: ITU-T T.81, annex B

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Frame headers: the range without DHT, JPG and DAC."""
_BARE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers without a length: TEM and RST."""
_FILL: Final = 0xFF
_END: Final = frozenset({0xD9, 0xDA})
"""EOI and SOS: after them no frame header comes."""


def _jpeg(view: memoryview) -> ImageFacts:
    at = 2
    for _ in range(_MOST_STEPS):
        prefix, marker = _take(view, at, 2)
        if prefix != _FILL or marker in _END:
            raise _broken("the JPEG has no frame header where one must be")
        if marker in _SOF:
            return _jpeg_frame(view, at + 2)
        if marker == _FILL:
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            at += 2 + _jpeg_length(view, at + 2)
    raise _broken("the JPEG has too many segments before its frame header")


def _jpeg_length(view: memoryview, at: int) -> int:
    length: int = struct.unpack(">H", _take(view, at, 2))[0]
    if length < 2:
        raise _broken("a JPEG segment is shorter than its own length")
    return length


def _jpeg_frame(view: memoryview, at: int) -> ImageFacts:
    length = _jpeg_length(view, at)
    _precision, height, width, components = struct.unpack(">BHHB", _take(view, at + 2, 6))
    if components == 0 or length != 8 + 3 * components:
        raise _broken("the JPEG frame header has a wrong length")
    # Height 0 means "told after the first scan" (DNL); hardly any decoder reads that, so it is a fault here too.
    return _sized("jpeg", width, height, has_alpha=False)


# ---- WebP: RFC 9649


def _webp(view: memoryview) -> ImageFacts:
    size, kind, length = struct.unpack("<I4x4sI", _take(view, 4, 16))
    if size + 8 > len(view) or length + 12 > size:
        raise _broken("the WebP ends too early")
    reader = _WEBP.get(kind)
    if reader is None:
        raise _broken("a WebP begins with VP8, VP8L or VP8X")
    return reader(_take(view, 20, 10))


def _webp_lossy(header: bytes) -> ImageFacts:
    # Bit 0 of a frame tag is 0 for a key frame, and an image is nothing else.
    if header[0] & 1 or header[3:6] != b"\x9d\x01\x2a":
        raise _broken("the WebP's VP8 frame does not begin like a key frame")
    width, height = struct.unpack("<HH", header[6:])
    return _sized("webp", width & 0x3FFF, height & 0x3FFF, has_alpha=False)


def _webp_lossless(header: bytes) -> ImageFacts:
    signature, bits = struct.unpack("<BI", header[:5])
    if signature != 0x2F or bits >> 29:
        raise _broken("the WebP's VP8L frame does not begin as it must")
    return _sized("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, has_alpha=bool(bits >> 28 & 1))


def _webp_extended(header: bytes) -> ImageFacts:
    width, height = (int.from_bytes(header[at : at + 3], "little") + 1 for at in (4, 7))
    return _sized("webp", width, height, has_alpha=bool(header[0] & 0x10))


_WEBP: Final = {b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless, b"VP8X": _webp_extended}
