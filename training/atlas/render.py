"""Turns an icon's drawing into pixels."""

import io
from typing import Final

import numpy as np
import resvg_py
from PIL import Image

from gateway.engine.atlas import Pixels

LARGE: Final = 128
"""Edge of a first rendering in pixels; it is also the edge of the drawing's own coordinates."""


def render(body: str, edge: int = LARGE) -> Pixels:
    """Return the pixels of what stands inside an `<svg>`; raises ValueError if it isn't readable."""
    box = f'viewBox="0 0 {LARGE} {LARGE}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box}>{body}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=edge, height=edge)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def halved(pixels: Pixels) -> Pixels:
    """Return a picture of half the edge: each pixel the mean of four, weighted by their alpha.

    Without the weights the colour of pixels that can't be seen would darken every rim.
    """
    height, width, _ = pixels.shape
    groups = pixels.astype(np.float64).reshape(height // 2, 2, width // 2, 2, 4)
    alpha = groups[..., 3:].sum(axis=(1, 3))
    colour = (groups[..., :3] * groups[..., 3:]).sum(axis=(1, 3)) / np.maximum(alpha, 1)
    result: Pixels = np.rint(np.concatenate((colour, alpha / 4), axis=-1)).astype(np.uint8)
    return result
