"""Makes a figure of a user's picture: without its background, as large as an icon."""

from typing import Final

import numpy as np
from PIL import Image

from gateway.engine.interface import Pixels
from gateway.engine.sketch.recolour import recoloured
from gateway.engine.sketch.sheet import cropped, premultiplied
from gateway.engine.words.lexicon import lexicon

_EDGE: Final = 60
"""Pixels: the longer edge of a figure, as most icons have it."""
_MOST: Final = 256
"""A larger picture is first reduced to this edge; only its outline is looked for."""
_ALIKE: Final = 28
"""Levels of 255 by which a pixel may differ from the corners and still be background."""


def fitted(picture: Pixels, dye: str | None = None) -> Pixels:
    """Return the figure of an RGBA picture of any size, premultiplied, its longer edge 60 pixels.

    A picture without transparency is cropped to what differs from its corners; if they differ among themselves, it is
    all figure.
    """
    image = Image.fromarray(picture)
    image.thumbnail((_MOST, _MOST), Image.Resampling.BOX)
    pixels = np.asarray(image)
    if int(pixels[..., 3].min()) > 250:
        pixels = _without_background(pixels)
    pixels = cropped(pixels)
    scale = _EDGE / max(pixels.shape[:2])
    if scale != 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.HAMMING))
    if dye is not None:
        pixels = recoloured(pixels, lexicon().dyes[dye].rgb)
    return premultiplied(pixels)


def _without_background(pixels: Pixels) -> Pixels:
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3].astype(np.int16)
    ground = np.median(corners, axis=0)
    if np.abs(corners - ground).max() > _ALIKE:
        return pixels
    away = np.abs(pixels[..., :3].astype(np.int16) - ground).max(axis=2)
    rows, columns = np.flatnonzero((away > _ALIKE).any(axis=1)), np.flatnonzero((away > _ALIKE).any(axis=0))
    if not len(rows):
        return pixels
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    inner = away[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box[..., 3] = np.clip((inner - _ALIKE / 2) * (255 / _ALIKE), 0, 255).astype(np.uint8)
    return box
