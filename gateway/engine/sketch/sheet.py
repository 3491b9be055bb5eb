"""Figures and sheets: an icon without its empty border, turned and scaled, laid on premultiplied RGBA."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from gateway.engine.interface import Pixels, Sheet


@dataclass(frozen=True, slots=True)
class Place:
    """Where a figure stands: its middle, in pixels from the top left, and how it is turned."""

    figure: int
    y: float
    x: float
    scale: float
    """1 = an icon's pixel is a pixel."""
    turn: float = 0.0
    """Degrees against the clock."""
    mirrored: bool = False


def cropped(icon: Pixels) -> Pixels:
    """Return RGBA without the empty border; one transparent pixel if nothing else is there."""
    seen = icon[..., 3] > 8
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return np.zeros((1, 1, 4), np.uint8)
    return icon[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def premultiplied(icon: Pixels) -> Pixels:
    """Return RGBA with its colours multiplied by its alpha."""
    alpha = icon[..., 3:].astype(np.uint16)
    colours = (icon[..., :3] * alpha + 127) // 255
    return np.concatenate((colours, alpha), axis=2).astype(np.uint8)


def laid(figures: list[Pixels], places: Iterable[Place], height: int, width: int, *, wrap: bool = False) -> Sheet:
    """Return a sheet (4, height, width) with premultiplied figures on it, the later over the earlier.

    What is beyond an edge is cut off, or with `wrap` goes on at the opposite edge.
    """
    sheet: Sheet = np.zeros((height, width, 4), np.float32)
    for place in places:
        layer = _turned(figures[place.figure], place)
        # Not `round`, which takes halves to even numbers: a pattern that is moved would not be the same.
        top, left = (math.floor(at - edge / 2 + 0.5) for at, edge in zip((place.y, place.x), layer.shape, strict=False))
        if wrap:
            _lay_wrapped(sheet, layer, top, left)
        else:
            _lay(sheet, layer, top, left)
    return np.ascontiguousarray(sheet.transpose(2, 0, 1))


def _turned(figure: Pixels, place: Place) -> Pixels:
    if place.mirrored:
        figure = figure[:, ::-1]
    if place.turn == 0 and place.scale == 1:
        return figure
    height, width = figure.shape[:2]
    image = Image.frombytes("RGBa", (width, height), np.ascontiguousarray(figure).tobytes())
    if place.turn:
        image = image.rotate(place.turn, Image.Resampling.BICUBIC, expand=True)
    size = (max(1, round(image.width * place.scale)), max(1, round(image.height * place.scale)))
    if size != image.size:
        # Hamming averages the area of each new pixel and is sharper than a triangle; it is for reducing only.
        smaller = Image.Resampling.HAMMING if place.scale < 1 else Image.Resampling.BICUBIC
        image = image.resize(size, smaller)
    pixels: Pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 4)
    # Cubic filters overshoot: no colour may be more than its alpha.
    return np.minimum(pixels, pixels[..., 3:])


def _lay(sheet: Sheet, layer: Pixels, top: int, left: int) -> None:
    height, width = sheet.shape[:2]
    rows = slice(max(top, 0), min(top + layer.shape[0], height))
    columns = slice(max(left, 0), min(left + layer.shape[1], width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    part = (
        layer[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left].astype(np.float32) / 255
    )
    under = sheet[rows, columns]
    under *= 1 - part[..., 3:]
    under += part


def _lay_wrapped(sheet: Sheet, layer: Pixels, top: int, left: int) -> None:
    height, width = sheet.shape[:2]
    for down in (top % height - height, top % height):
        for right in (left % width - width, left % width):
            _lay(sheet, layer, down, right)
