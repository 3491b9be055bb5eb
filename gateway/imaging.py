"""Makes smaller pictures, and masks, with Pillow, in a thread beside the event loop."""

import asyncio
import struct
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps

from gateway.core.images import ImageFault, measure
from gateway.core.reports import Picture
from gateway.ports import MaskSource
from protocol.ladder import Rung
from protocol.messages import PreviewFormat

MAX_PIXELS: Final = 16_777_216
_RAW_MODES: Final = {"rgba8": "RGBA", "rgb8": "RGB"}
_BROKEN: Final = (ImageFault, Image.DecompressionBombError, OSError, SyntaxError, ValueError, struct.error, zlib.error)
"""How Pillow and we tell that bytes are no picture."""


class PillowTranscoder:
    """See `gateway.ports.Transcoder`. One thread: a second would not wait less, but take the loop's processor.

    Its queue is for its users to bound: feeds drop the oldest previews, and doors refuse what would wait for long. Each
    of the two has a transcoder of its own, so that no preview waits behind finished pictures in other formats.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transcoder")

    def close(self) -> None:
        """End the thread after the picture that it is at."""
        self._thread.shutdown(cancel_futures=True)

    async def shrink(self, picture: Picture, rung: Rung) -> tuple[bytes, tuple[int, int]] | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, shrunk, picture, rung, self._max_pixels)

    async def mask(self, picture: Picture, source: MaskSource) -> bytes | None:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, mask_of, picture, source, self._max_pixels)


def shrunk(picture: Picture, rung: Rung, max_pixels: int = MAX_PIXELS) -> tuple[bytes, tuple[int, int]] | None:
    """Return a picture encoded for a rung and its size, never enlarged; `None` if it is broken or over `max_pixels`."""
    try:
        image = _decode(picture, rung.edge, max_pixels)
    except _BROKEN:
        return None
    # Pillow resizes RGBA with its alpha multiplied in, so transparent pixels do not bleed.
    image.thumbnail((rung.edge, rung.edge), Image.Resampling.BILINEAR, reducing_gap=2.0)
    image.info.clear()  # or the writers would copy colour profile and comment
    return _ENCODERS[rung.format](image, rung.quality), image.size


def mask_of(picture: Picture, source: MaskSource, max_pixels: int = MAX_PIXELS) -> bytes | None:
    """Return a grey PNG, white where the picture is black, transparent or opaque; `None` as `shrunk`."""
    try:
        # Drafted for its own size: a JPEG is decoded whole.
        image = _decode(picture, max(picture.width, picture.height), max_pixels)
    except _BROKEN:
        return None
    return _png(_MASKS[source](image), 0)


def _inverted(image: Image.Image) -> Image.Image:
    return ImageOps.invert(image.convert("RGB").convert("L"))


def _transparent(image: Image.Image) -> Image.Image:
    return ImageOps.invert(_opacity(image))


def _opaque(image: Image.Image) -> Image.Image:
    """What was drawn on nothing, whatever its colour; a picture that is opaque everywhere is its own mask."""
    opacity = _opacity(image)
    if opacity.getextrema()[0] == 255:
        return image.convert("RGB").convert("L")
    return opacity.point(lambda level: 255 if level > 128 else 0)


def _opacity(image: Image.Image) -> Image.Image:
    return image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255)


def _decode(picture: Picture, edge: int, max_pixels: int) -> Image.Image:
    """The picture as RGB, or as RGBA if anything in it is transparent; a JPEG as small as `edge` allows."""
    if picture.format in _RAW_MODES:
        return _raw(picture, _RAW_MODES[picture.format], max_pixels)
    facts = measure(picture.content)
    if facts.width * facts.height > max_pixels:
        raise ValueError(f"more than {max_pixels} pixels")
    with Image.open(BytesIO(picture.content), formats=(facts.format,)) as image:
        if image.size != (facts.width, facts.height):
            raise ValueError("Pillow would decode another size than we measured")
        image.draft("RGB", (edge, edge))
        if image.mode.startswith(("I", "F")):  # more than 8 bits, of which `convert` would keep the wrong end
            return image.convert("I").point(lambda level: level / 256).convert("L").convert("RGB")
        return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _raw(picture: Picture, mode: str, max_pixels: int) -> Image.Image:
    if not 0 < picture.width * picture.height <= max_pixels:
        raise ValueError(f"no pixels, or more than {max_pixels}")
    if len(picture.content) != picture.width * picture.height * len(mode):  # Pillow would take more than it needs
        raise ValueError("the bytes are too few or too many for the size")
    return Image.frombytes(mode, (picture.width, picture.height), picture.content)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return _saved(image, "JPEG", quality=quality, subsampling="4:2:0")


def _webp(image: Image.Image, quality: int) -> bytes:
    return _saved(image, "WEBP", quality=quality, method=1)


def _png(image: Image.Image, _quality: int) -> bytes:
    return _saved(image, "PNG", compress_level=1)


def _rgba(image: Image.Image, _quality: int) -> bytes:
    return image.convert("RGBA").tobytes()


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


_ENCODERS: Final[Mapping[PreviewFormat, Callable[[Image.Image, int], bytes]]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "png": _png,
    "raw": _rgba,
}
_MASKS: Final[Mapping[MaskSource, Callable[[Image.Image], Image.Image]]] = {
    "inverted": _inverted,
    "transparent": _transparent,
    "opaque": _opaque,
}
