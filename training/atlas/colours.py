"""Names the colours of an icon."""

from typing import Final

import numpy as np
import numpy.typing as npt

from gateway.engine.atlas import Pixels

NAMES: Final = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
_LEAST: Final = 0.05
"""A colour with a smaller share of the picture is not mentioned."""


def colours(pixels: Pixels) -> dict[str, float]:
    """Return the share of each basic colour among the pixels that are more than half opaque, the largest first."""
    seen = pixels[pixels[..., 3] > 127][:, :3]
    counts = np.bincount(_named(seen), minlength=len(NAMES)) / max(1, len(seen))
    order = sorted(range(len(NAMES)), key=lambda number: -counts[number])
    return {NAMES[number]: round(float(counts[number]), 2) for number in order if counts[number] >= _LEAST}


def _named(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """The number of the name for each colour; shape (n, 3) to (n,)."""
    level = rgb.astype(np.float64) / 255
    value, low = level.max(axis=1), level.min(axis=1)
    chroma = value - low
    vivid = chroma / np.maximum(value, 1e-9)
    hue = _hue(level, value, chroma)
    warm = (hue < 42) | (hue >= 345)
    # The first that holds; between two neighbours of the colour circle the limit lies where Noto's palette has a gap.
    rules = (
        ("black", (value < 0.2) | ((value < 0.32) & (vivid < 0.35)) | ((value < 0.42) & (vivid < 0.15))),
        ("white", (vivid < 0.12) & (value > 0.86)),
        ("pink", (hue < 32) & (vivid > 0.2) & (vivid < 0.45) & (value > 0.86)),
        ("grey", (vivid < 0.13) | ((vivid < 0.3) & (hue > 180) & (hue < 260) & (value < 0.92))),
        ("brown", warm & (hue >= 8) & (hue < 42) & ((value < 0.72) | ((vivid < 0.5) & (value < 0.86)))),
        ("pink", ((hue >= 300) | (hue < 8)) & (value > 0.7) & (vivid < 0.56)),
        ("pink", (hue >= 305) & (hue < 346) & (value > 0.75)),
        ("red", (hue < 15) | (hue >= 335)),
        ("orange", (hue < 41) & (vivid >= 0.4)),
        ("yellow", (hue < 66) & ((value > 0.6) | (vivid < 0.5))),
        ("green", hue < 168),
        ("blue", hue < 248),
        ("purple", hue < 335),
    )
    return np.select([rule for _, rule in rules], [NAMES.index(name) for name, _ in rules]).astype(np.intp)


def _hue(
    level: npt.NDArray[np.float64], value: npt.NDArray[np.float64], chroma: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The place on the colour circle in degrees, 0 for greys."""
    red, green, blue = level.T
    safe = np.maximum(chroma, 1e-9)
    turn: npt.NDArray[np.float64] = np.select(
        [chroma == 0, value == red, value == green],
        [np.zeros_like(value), (green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    turn *= 60
    return turn
