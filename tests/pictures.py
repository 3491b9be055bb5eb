"""Pictures as files."""

import io
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return the picture's file."""
    made = io.BytesIO()
    picture.save(made, format, **options)
    return made.getvalue()


def flat(colour: Any, size: tuple[int, int], mode: str = "RGB", format: str = "PNG") -> bytes:
    """Return the file of a picture of one colour."""
    return encoded(Image.new(mode, size, colour), format)
