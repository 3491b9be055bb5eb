"""The light of a picture: what colour the sky is from top to horizon, and what that makes of other colours."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gateway.engine.colour import Colour, Ramp, from_hex, mix, times, turned
from gateway.engine.words import Reading


@dataclass(frozen=True, slots=True)
class Mood:
    """The light at one hour."""

    sky: Ramp
    """From 0, the top of the picture, to 1, the horizon."""
    haze: Colour
    """What far things fade into."""
    ambient: Colour
    """What every surface's colour is multiplied by."""
    glow: Colour
    """The light of sun or moon, and what it paints on the edges of clouds."""
    cloud: Colour
    """The shadow side of clouds."""
    dark: float
    """How far lamps are seen, 0..1."""

    def seen(self, colour: Colour, far: float = 0.0) -> Colour:
        """Return what is seen of a surface, `far` 0 (at hand) to 1 (at the horizon)."""
        return mix(times(colour, self.ambient), self.haze, far)


def _mood(sky: str, haze: str, ambient: Colour, glow: str, cloud: str, dark: float) -> Mood:
    stops = [from_hex(digits) for digits in sky.split()]
    places = np.linspace(0, 1, len(stops)).tolist()
    ramp = Ramp(*zip(places, stops, strict=True))
    return Mood(ramp, from_hex(haze), ambient, from_hex(glow), from_hex(cloud), dark)


_MOODS: Final[dict[str, Mood]] = {
    "day": _mood("2f74c8 5c9edf 9ccbee dcebef", "c4dbe6", (1.0, 0.98, 0.93), "fff4d2", "b9cbdc", 0.0),
    "dusk": _mood("1c2350 3f3474 7d4385 c9566f f2895a ffcf8a", "dc8572", (0.58, 0.46, 0.55), "ffd79a", "5a3c74", 0.75),
    "dawn": _mood("6f8fce 9fb0df d4bfdd f5c1b9 ffdfae fff0cc", "e9c4bd", (0.9, 0.8, 0.78), "fff0c8", "a99bc4", 0.1),
    "night": _mood("050a20 0a1836 133058 24507a 3b6f92", "22476b", (0.25, 0.32, 0.47), "dfe8ff", "182c4e", 1.0),
    "storm": _mood("20272f 39444e 596670 7f8b90 a9afa8", "7b868b", (0.52, 0.56, 0.58), "d9dfe2", "2c343c", 0.6),
    "space": _mood("05030f 0a0820 100d30 0c0a26", "120f33", (0.35, 0.33, 0.45), "e8e4ff", "1c1747", 1.0),
}
_ORDER: Final = ("space", "night", "storm", "dusk", "dawn", "day")
"""The first hour that is said counts: "a dark night after sunset" is night."""
_HINTS: Final = {
    "moon": "night",
    "stars": "night",
    "aurora": "night",
    "planet": "night",
    "lightning": "storm",
}


def hour(reading: Reading) -> str:
    """Return the name of the hour that the words mean, `day` if they mean none."""
    said: list[str] = [name for name in _ORDER if name in reading.concepts]
    said += [name for word, name in _HINTS.items() if word in reading.concepts]
    return said[0] if said else "day"


def mood(reading: Reading, draw: np.random.Generator) -> Mood:
    """Return the light that the words mean, never twice quite the same."""
    base = _MOODS[hour(reading)]
    turn = float(draw.uniform(-0.018, 0.018)) + 0.03 * min(2, len(reading.unknown)) * float(draw.uniform(-1, 1))
    sky = base.sky.turned(turn)
    if "sky" in reading.tints:
        sky = sky.towards(reading.tints["sky"], 0.6)
    if "snow" in reading.concepts and base.dark < 0.5:
        sky = sky.towards(from_hex("c9d6e2"), 0.45)
    haze = mix(turned(base.haze, turn), reading.tints.get("sky", base.haze), 0.4)
    return replace(base, sky=sky, haze=haze)
