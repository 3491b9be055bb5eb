"""Pictures in a process that works for an upstream: strangers' images to pixels, and pixels to files."""

import io
import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gateway.upstreams.child import PaintingFault

Pixels = NDArray[np.uint8]
"""A picture: RGB of shape (height, width, 3), or a mask of shape (height, width); 0..255."""

MAX_INPUT_PIXELS: Final = 16_777_216
"""Pixels of an input image after decoding (the wire protocol's limit)."""
_PREVIEW_EDGE: Final = 512
_STRIP: Final = 32
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_BROKEN: Final = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow's readers raise for bytes that are no image."""


def decode_picture(content: bytes, size: tuple[int, int]) -> Pixels:
    """Return an encoded image as RGB of shape (height, width, 3), resized to `size` (width, height).

    Transparent pixels are laid on white. Raises `PaintingFault`: `image_decode_failed`, or `payload_too_large` where
    the header tells of too many pixels.
    """
    image = shrunk(decoded(content), size).resize(size, Image.Resampling.LANCZOS)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture as RGB, or RGBA if it has alpha, shrunk by whole factors to some size that is not below `size`.

    It goes in strips: a converted copy of a whole picture of 16 megapixels would take 64 MiB.
    """
    mode = "RGBA" if has_alpha(image) else "RGB"
    across, down = (max(1, edge // asked) for edge, asked in zip(image.size, size, strict=True))
    width, height = -(-image.width // across), -(-image.height // down)
    if (width, height) == image.size:
        return image.convert(mode)
    whole = Image.new(mode, (width, height))
    for top in range(0, height, _STRIP):
        strip = image.crop((0, top * down, image.width, min((top + _STRIP) * down, image.height)))
        # Pillow reduces RGBA with its alpha multiplied in, so transparent pixels do not bleed.
        whole.paste(strip.convert(mode).reduce((across, down)), (0, top))
    return whole


def decode_mask(content: bytes, size: tuple[int, int]) -> Pixels:
    """Return an encoded mask as grey of shape (height, width), without new greys; raises as `decode_picture`."""
    return np.asarray(decoded(content).convert("L").resize(size, Image.Resampling.NEAREST))


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture may have transparent pixels."""
    return "A" in image.getbands() or "transparency" in image.info


def decoded(content: bytes) -> Image.Image:
    """Return an encoded image; raises as `decode_picture`."""
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        if image.width * image.height > MAX_INPUT_PIXELS:
            raise PaintingFault("payload_too_large", f"an image has at most {MAX_INPUT_PIXELS} pixels")
        image.load()
    except _BROKEN as fault:
        raise PaintingFault("image_decode_failed", "an input image cannot be decoded") from fault
    if image.mode.startswith("I"):  # 16 bits, of which `convert` would keep the wrong end
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def encode_preview(pixels: Pixels, width: int, height: int) -> tuple[bytes, int, int]:
    """Return a latent's picture as JPEG, enlarged to the asked size but at most 512 on the long edge, and its edges."""
    part = min(1.0, _PREVIEW_EDGE / max(width, height))
    size = (max(1, round(width * part)), max(1, round(height * part)))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue(), *size


def encode_picture(pixels: Pixels) -> bytes:
    """Return RGB pixels as PNG."""
    content = io.BytesIO()
    # Level 1 takes a third of the default's time for a tenth more bytes.
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()
