"""Gives an icon another colour: its main colour becomes the named one, light and shade stay."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.interface import Colour, Pixels

_Levels = NDArray[np.float32]
_LUMA: Final = np.asarray((0.299, 0.587, 0.114), np.float32)
_OUTLINE: Final = 0.16
"""Darker than this is an outline or a pupil, and stays."""
_GREYISH: Final = 0.13
"""Less chroma than this is grey."""
_NEAR: Final = 0.11
"""Of the colour circle (0..1): hues so near to the main one are wholly dyed; twice as far, not at all."""
_HUES: Final = 24
_PALE: Final = 0.85
"""A colour whose channels are all above this is as good as white."""
_RIM: Final = 0.34


def recoloured(icon: Pixels, colour: Colour) -> Pixels:
    """Return RGBA of the same shape (height, width, 4) with the main colour changed; alpha stays."""
    rgb: _Levels = icon[..., :3].astype(np.float32) / np.float32(255)
    seen: _Levels = icon[..., 3].astype(np.float32) / np.float32(255)
    luma: _Levels = rgb @ _LUMA
    share = _main(rgb, luma, seen)
    main = share * seen > 0.5
    if not main.any():
        return icon
    middle = float(np.median(luma[main]))
    dyed = _ramp(luma - middle, colour)
    mixed = rgb + (dyed - rgb) * share[..., None]
    if min(colour) > _PALE:
        mixed = mixed * (1 - _RIM * (_rim(seen) * share)[..., None])
    out = icon.copy()
    out[..., :3] = np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return out


def _rim(seen: _Levels) -> _Levels:
    """1 at the figure's edge: what is white needs an outline before a white ground."""
    padded = np.pad(seen, 1)
    inner = np.minimum.reduce((padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]))
    return np.asarray(1 - inner, np.float32)


def _ramp(step: _Levels, colour: Colour) -> _Levels:
    """The named colour, made darker or lighter by each pixel's distance from the middle brightness."""
    base = np.asarray(colour, np.float32)
    step = step * (1.5 if min(colour) > _PALE else 1.0)
    # Black has no room below it and white none above: their shade goes mostly the other way.
    dark, light = base * (1 + 1.25 * np.minimum(step, 0)[..., None]), np.maximum(step, 0)[..., None] * 1.15
    return np.where(step[..., None] < 0, np.maximum(dark, base * 0.25), base + (1 - base) * np.minimum(light, 0.9))


def _main(rgb: _Levels, luma: _Levels, seen: _Levels) -> _Levels:
    """How far each pixel is of the icon's main colour, 0..1."""
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    hue = _hue(rgb, chroma)
    vivid = seen * (chroma > _GREYISH)
    bins = np.bincount((hue * _HUES).astype(np.intp).ravel() % _HUES, (vivid * (0.3 + chroma)).ravel(), _HUES)
    areas = np.bincount((hue * _HUES).astype(np.intp).ravel() % _HUES, vivid.ravel(), _HUES)
    smooth = bins + 0.7 * (np.roll(bins, 1) + np.roll(bins, -1))
    best = int(smooth.argmax())
    area = float(areas[[best - 1, best, (best + 1) % _HUES]].sum())
    grey = seen * (chroma <= _GREYISH)
    if float((grey * (luma > _OUTLINE) * (luma < 0.93)).sum()) > area:
        return _greys(luma, chroma)
    if float((grey * (luma >= 0.93)).sum()) > 1.6 * area:
        return _greys(luma, chroma)
    if area < 0.12 * float(seen.sum()):
        return _rest(luma, chroma)
    middle = _middle(hue, chroma * vivid, best)
    away = np.abs((hue - middle + 0.5) % 1 - 0.5)
    near = np.clip(2 - away / _NEAR, 0, 1)
    # Pale tints of the main hue are its highlights; what has no hue of its own keeps its grey.
    return np.asarray(near * np.clip((chroma - 0.05) / 0.08, 0, 1), np.float32)


def _greys(luma: _Levels, chroma: _Levels) -> _Levels:
    share = np.clip((0.28 - chroma) / 0.12, 0, 1) * np.clip((luma - _OUTLINE) / 0.08, 0, 1)
    return np.asarray(share, np.float32)


def _rest(luma: _Levels, chroma: _Levels) -> _Levels:
    """For an icon that is nearly all black: everything without a hue."""
    return np.asarray(np.clip((0.3 - chroma) / 0.12, 0, 1) * (luma < 0.9), np.float32)


def _middle(hue: _Levels, weight: _Levels, best: int) -> float:
    centre = (best + 0.5) / _HUES
    offset = (hue - centre + 0.5) % 1 - 0.5
    near = weight * (np.abs(offset) < 1.5 / _HUES)
    return centre + float((offset * near).sum() / max(float(near.sum()), 1e-6))


def _hue(rgb: _Levels, chroma: _Levels) -> _Levels:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    safe = np.maximum(chroma, 1e-6)
    high = rgb.max(axis=2)
    turn = np.where(
        high == red, (green - blue) / safe, np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    return np.asarray(turn / 6 % 1, np.float32)
