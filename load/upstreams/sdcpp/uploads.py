"""Pictures that come with a request, read as the server reads them: cropped to the shape and scaled to the size."""

from __future__ import annotations

import base64
import io
import re
import warnings

from PIL import Image

_FORMATS = ("PNG", "JPEG", "BMP", "GIF")
_BASE64_START = re.compile(r"[A-Za-z0-9+/]*")
_CHANNELS = {"1": 1, "L": 1, "I": 1, "I;16": 1, "LA": 2}


class Unreadable(ValueError):
    """The bytes are no picture that the server can use."""


def decode_image(text: str, channels: int, size: tuple[int, int], *, webp: bool = False) -> Image.Image:
    """The picture in a base64 text, a data URL's head before the comma left out; raises `Unreadable`."""
    _, comma, rest = text.partition(",")
    return load_image(_base64(rest if comma else text), channels, size, webp=webp)


def load_image(data: bytes, channels: int, size: tuple[int, int], *, webp: bool = False) -> Image.Image:
    """The picture in a file with 3 channels or 1, at `size` if both sides of it are positive.

    Raises `Unreadable`, also for a grey picture where 3 channels are wanted: the server refuses those.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=[*_FORMATS, *(("WEBP",) if webp else ())])
            picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error)) from error
    if _CHANNELS.get(picture.mode, 3) < channels:
        raise Unreadable("too few channels")
    # Alpha is dropped, not blended.
    return fit(picture.convert("RGB").convert("RGB" if channels == 3 else "L"), size)


def fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture's middle part of the wanted shape, scaled to the wanted size."""
    width, height = size
    if width <= 0 or height <= 0 or picture.size == size:
        return picture
    wide, high = picture.size
    if wide * height > high * width:
        part = max(1, high * width // height)
        left = (wide - part) // 2
        picture = picture.crop((left, 0, left + part, high))
    elif wide * height < high * width:
        part = max(1, wide * height // width)
        top = (high - part) // 2
        picture = picture.crop((0, top, wide, top + part))
    return picture.resize(size, Image.Resampling.BOX)


def _base64(text: str) -> bytes:
    # The server's decoder stops at the first letter it does not know and needs no padding.
    letters = _BASE64_START.match(text)
    known = letters.group() if letters else ""
    known = known[: -1 if len(known) % 4 == 1 else None]
    return base64.b64decode(known + "=" * (-len(known) % 4))
