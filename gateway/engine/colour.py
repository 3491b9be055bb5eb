"""Colours as three floats 0..1 (sRGB), and how they are mixed."""

import colorsys
from typing import Final

import numpy as np

from gateway.engine.interface import Plane

Colour = tuple[float, float, float]


def from_hex(digits: str) -> Colour:
    """Return the colour that six hexadecimal digits name."""
    red, green, blue = bytes.fromhex(digits)
    return red / 255, green / 255, blue / 255


def mix(first: Colour, second: Colour, part: float) -> Colour:
    """Return `first` for `part` 0, `second` for 1, and what lies between."""
    red, green, blue = (a + (b - a) * part for a, b in zip(first, second, strict=True))
    return red, green, blue


def times(first: Colour, second: Colour) -> Colour:
    """Return what is seen of a surface `first` in a light `second`."""
    return first[0] * second[0], first[1] * second[1], first[2] * second[2]


def lighter(colour: Colour, factor: float) -> Colour:
    """Return the colour with its brightness times `factor`."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def turned(colour: Colour, turn: float, saturation: float = 1.0) -> Colour:
    """Return the colour with its hue turned by `turn` (1 = all around) and its saturation times a factor."""
    hue, lightness, depth = colorsys.rgb_to_hls(*(min(1.0, part) for part in colour))
    return colorsys.hls_to_rgb((hue + turn) % 1, lightness, min(1.0, depth * saturation))


def column(colour: Colour) -> Plane:
    """Return the colour in the shape (3, 1, 1) that blends with planes."""
    return np.array(colour, np.float32)[:, None, None]


class Ramp:
    """A gradient through stops of (place, colour), places rising."""

    def __init__(self, *stops: tuple[float, Colour]) -> None:
        self.stops = stops

    def __call__(self, place: Plane) -> Plane:
        """Return the colours at places of any shape, with 3 put before that shape."""
        places = [stop for stop, _ in self.stops]
        channels = [np.interp(place, places, [colour[i] for _, colour in self.stops]) for i in range(3)]
        return np.stack(channels).astype(np.float32)

    def turned(self, turn: float) -> "Ramp":
        """Return the gradient with every hue turned."""
        return Ramp(*((place, turned(colour, turn)) for place, colour in self.stops))

    def towards(self, other: Colour, part: float) -> "Ramp":
        """Return the gradient with every colour mixed with another."""
        return Ramp(*((place, mix(colour, other, part)) for place, colour in self.stops))


NAMED: Final[dict[str, Colour]] = {
    name: from_hex(digits)
    for name, digits in {
        "red": "d8342c",
        "crimson": "b0182f",
        "orange": "f08a24",
        "yellow": "f6cf3a",
        "golden": "e8b23a",
        "gold": "e0a92e",
        "green": "4c9a4a",
        "emerald": "1f9d6b",
        "turquoise": "2fb9b3",
        "teal": "1f8a8c",
        "cyan": "38c6dc",
        "blue": "2f6fd0",
        "azure": "3f97ea",
        "indigo": "3b3a9c",
        "purple": "7b3fa6",
        "violet": "8350c8",
        "lilac": "b79adf",
        "magenta": "cc3a9c",
        "pink": "f28bb5",
        "brown": "80552f",
        "black": "1b1b22",
        "grey": "8a8d93",
        "gray": "8a8d93",
        "silver": "b9c0c8",
        "white": "f4f4f2",
    }.items()
}
