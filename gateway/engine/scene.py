"""From the words of a prompt to a list of layers, back to front; chance fills in what the words leave open."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.engine import abstract, land, sky, things, weather
from gateway.engine.canvas import Layer
from gateway.engine.colour import NAMED, Colour, from_hex, mix
from gateway.engine.mood import Mood, hour, mood
from gateway.engine.words import Reading, read

_PLACES: Final = ("sea", "lake", "beach", "desert", "mountains", "hills", "meadow", "forest", "city")
_THINGS: Final = (
    "lighthouse", "castle", "pyramid", "windmill", "house", "palm", "tree", "boat", "cactus", "balloon", "cat",
    "flower",
)  # fmt: skip
_ASHORE: Final = frozenset(("house", "tree", "windmill", "cat", "palm", "cactus", "pyramid"))
"""Things that bring a bank of grass with them where there is water."""
_GOES_WITH: Final[dict[str, tuple[str, ...]]] = {
    "lighthouse": ("sea",),
    "boat": ("sea",),
    "palm": ("beach",),
    "cactus": ("desert",),
    "pyramid": ("desert",),
    "castle": ("mountains", "hills"),
    "windmill": ("meadow",),
    "house": ("hills", "meadow"),
    "tree": ("meadow",),
    "balloon": ("mountains", "hills"),
    "cat": ("hills",),
    "flower": ("meadow",),
    "flowers": ("meadow",),
    "birds": ("sea",),
    "rain": ("city",),
    "lightning": ("hills",),
    "aurora": ("forest", "mountains"),
    "snow": ("forest", "mountains"),
    "fog": ("forest", "hills"),
    "rainbow": ("hills", "meadow"),
    "moon": ("sea",),
    "stars": ("mountains",),
}
"""The place that a thing stands in where the prompt names none."""


def compose(prompt: str, seed: int, aspect: float) -> list[Layer]:
    """Return the layers of the picture that a prompt and a seed mean; `aspect` is width by height."""
    reading = read(prompt)
    draw = np.random.Generator(np.random.PCG64([reading.salt, seed]))
    if not reading.concepts:
        return _abstract(reading, draw, aspect)
    if hour(reading) == "space" and not reading.concepts & {*_PLACES, *_THINGS}:
        return _space(reading, draw, aspect)
    return _Landscape(reading, draw, aspect).layers()


def _abstract(reading: Reading, draw: np.random.Generator, aspect: float) -> list[Layer]:
    colours = abstract.palette(reading, draw)
    return [
        abstract.flow(draw, colours),
        abstract.orbs(draw, colours, aspect),
        weather.brushwork(draw, aspect),
    ]


def _space(reading: Reading, draw: np.random.Generator, aspect: float) -> list[Layer]:
    light = mood(reading, draw)
    gas = [from_hex(digits) for digits in ("b03a8c", "3a6fd8", "e0703a", "2fa8a0", "7a4ad8")]
    first, second = (gas[int(i)] for i in draw.permutation(5)[:2])
    if reading.colours:
        first = reading.colours[0]
    layers = [sky.gradient(draw, light, 1.0), sky.nebula(draw, (first, second))]
    layers.append(sky.stars(draw, 1.3, aspect * 1.2, 520))
    if "planet" in reading.concepts or draw.random() < 0.6:
        x, y = float(draw.uniform(-0.25, 0.25)) * aspect, float(draw.uniform(0.35, 0.65))
        colour = reading.tints.get("planet", mix(second, (0.9, 0.75, 0.6), 0.5))
        layers.append(sky.planet(draw, x, y, float(draw.uniform(0.1, 0.17)) * min(1.0, aspect), colour))
    return [*layers, weather.brushwork(draw, aspect)]


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a thing may stand: its foot, and how large things are there."""

    x: float
    y: float
    scale: float


class _Landscape:
    """Collects the layers of one landscape."""

    def __init__(self, reading: Reading, draw: np.random.Generator, aspect: float) -> None:
        self._said = reading.concepts
        self._tints = reading.tints
        self._draw = draw
        self._aspect = aspect
        self._mood: Mood = mood(reading, draw)
        self._places = self._chosen_places()
        self._things = [thing for thing in _THINGS if thing in self._said]
        if self._said & {"flowers", "meadow", "hills"} and "flower" in self._things:
            self._things.remove("flower")  # a field of them, not a portrait
        self._horizon = self._uniform(0.56, 0.66)
        self._side = 1.0 if draw.random() < 0.5 else -1.0
        self._scale = min(1.0, aspect * 1.15)
        self._light_x = self._uniform(0.06, 0.3) * aspect * self._side
        self._reading = reading
        self._snowy = "snow" in self._said

    def layers(self) -> list[Layer]:
        """Return all layers, back to front."""
        grounds, edge = self._grounds()
        return [
            *self._heavens(),
            *grounds,
            *self._standing(edge),
            *self._air(),
            *self._manner(),
            weather.brushwork(self._draw, self._aspect),
        ]

    def _uniform(self, low: float, high: float) -> float:
        return float(self._draw.uniform(low, high))

    def _chosen_places(self) -> frozenset[str]:
        said = self._said & frozenset(_PLACES)
        if said:
            return said
        for concept, places in _GOES_WITH.items():
            if concept in self._said:
                return frozenset(places)
        return frozenset(("sea",) if self._draw.random() < 0.5 else ("mountains", "hills"))

    def _tint(self, concept: str, otherwise: str) -> Colour:
        return self._tints.get(concept, from_hex(otherwise))

    @property
    def _wet(self) -> bool:
        return bool(self._places & {"sea", "lake", "beach"})

    # ---- sky

    def _heavens(self) -> list[Layer]:
        draw, light, horizon = self._draw, self._mood, self._horizon
        layers = [sky.gradient(draw, light, horizon)]
        if light.dark > 0.9 or "stars" in self._said:
            layers.append(sky.stars(draw, horizon, self._aspect))
        elif light.dark > 0.7:
            layers.append(sky.stars(draw, horizon * 0.55, self._aspect, 60))
        if "aurora" in self._said:
            layers.append(sky.aurora(draw, horizon))
        layers += self._luminary()
        if "planet" in self._said:
            x, colour = -self._light_x, self._tint("planet", "c98a5e")
            layers.append(sky.planet(draw, x, horizon * 0.36, 0.11 * self._scale, colour))
        if "rainbow" in self._said:
            layers.append(sky.rainbow(-self._light_x * 0.6, horizon, self._uniform(0.36, 0.42)))
        amount = self._cloudiness()
        if amount:
            layers.append(sky.clouds(draw, light, horizon, amount))
        if "lightning" in self._said:
            layers.append(weather.lightning(draw, -self._light_x, horizon))
        return layers

    def _luminary(self) -> list[Layer]:
        name, horizon, draw = hour(self._reading), self._horizon, self._draw
        radius = self._uniform(0.042, 0.058) * self._scale
        if "moon" in self._said or (name == "night" and "aurora" not in self._said and draw.random() < 0.75):
            return [sky.moon(draw, self._mood, self._light_x, horizon * self._uniform(0.2, 0.42), radius * 1.15)]
        if "sun" in self._said or name in ("dusk", "dawn"):
            high = {"dusk": 0.9, "dawn": 0.8}.get(name, 0.3)
            return [sky.sun(self._mood, self._light_x, horizon * high, radius, horizon)]
        if name == "day" and draw.random() < 0.5:
            return [sky.sun(self._mood, self._light_x, horizon * 0.2, radius * 0.8, horizon)]
        return []

    def _cloudiness(self) -> float:
        name = hour(self._reading)
        if name == "storm" or "rain" in self._said:
            return 0.95
        if "clouds" in self._said:
            return self._uniform(0.6, 0.8)
        return 0.0 if "aurora" in self._said else self._uniform(0.2, 0.5)

    # ---- ground

    def _grounds(self) -> tuple[list[Layer], land.Edge]:
        """The layers of all places, and the edge of the nearest ground, on which things stand."""
        layers: list[Layer] = []
        if "mountains" in self._places:
            layers += self._mountains()
        if "city" in self._places:
            layers += self._city()
        if self._wet or self._places == {"city"}:
            return self._shore(layers)
        if "desert" in self._places:
            colour = self._tint("desert", "dfae6c")
            layers += land.dunes(self._draw, self._mood, self._horizon, colour)
            return layers, lambda x: 0 * x + self._horizon + (1 - self._horizon) * 0.42
        return self._country(layers)

    def _mountains(self) -> list[Layer]:
        rock = self._tint("mountains", "6b6a78")
        snow = 0.3 if self._snowy else 0.15
        layers = []
        for far, high, frequency in ((0.5, 0.42, 1.1), (0.22, 0.27, 1.7)):
            edge = land.jagged(self._draw, self._horizon + 0.03, high, frequency)
            layers.append(
                land.mountains(self._draw, self._mood, edge, far, rock, snow if far > 0.4 or self._snowy else 0)
            )
        return layers

    def _city(self) -> list[Layer]:
        wall = self._tint("city", "525a70")
        return [
            land.city(self._draw, self._mood, self._horizon + 0.01, high, far, wall)
            for far, high in ((0.6, 0.42), (0.3, 0.3))
        ]

    def _shore(self, layers: list[Layer]) -> tuple[list[Layer], land.Edge]:
        draw, light, horizon = self._draw, self._mood, self._horizon
        if self._places & {"hills", "meadow", "forest"} or "lake" in self._places:
            edge = land.rolling(draw, horizon - 0.03, 0.07, 1.9, 3)
            layers.append(land.ground(draw, light, edge, self._greens(), 0.55))
        if "forest" in self._places:
            edge = land.rolling(draw, horizon + 0.005, 0.012, 2)
            layers.append(land.forest(draw, light, edge, 0.12, 0.3, from_hex("2f5a3c")))
        shining = self._luminary_shines()
        calm = 0.85 if "lake" in self._places else 0.15
        tint = next((self._tints[name] for name in ("sea", "lake") if name in self._tints), None)
        layers.append(land.water(draw, light, horizon, self._light_x if shining else None, tint, calm))
        if "beach" in self._places:
            edge = land.rolling(draw, 0.83, 0.05, 0.9)
            sand = (from_hex("e8cd98"), from_hex("cfae78"))
            layers.append(
                land.ground(draw, light, lambda x: edge(x) - 0.012, ((0.97, 0.97, 0.95), (0.9, 0.94, 0.95)), 0.1)
            )
            layers.append(land.ground(draw, light, edge, sand, 0.0, 0.5))
            return layers, lambda x: edge(x) + 0.035
        if self._said & _ASHORE:
            edge = land.rolling(draw, 0.83, 0.03, 0.9)
            layers.append(land.ground(draw, light, edge, self._greens(), 0.0))
            return layers, edge
        return layers, lambda x: 0 * x + horizon + (1 - horizon) * 0.3

    def _luminary_shines(self) -> bool:
        return hour(self._reading) in ("dusk", "dawn", "night") or bool(self._said & {"sun", "moon"})

    def _greens(self) -> tuple[Colour, Colour]:
        if self._snowy:
            return from_hex("f1f4fa"), from_hex("c3d0e4")
        colour = next((self._tints[name] for name in ("meadow", "hills") if name in self._tints), None)
        if colour is not None:
            return colour, mix(colour, (0.1, 0.12, 0.1), 0.35)
        return from_hex("86a94c"), from_hex("4f7a3a")

    def _country(self, layers: list[Layer]) -> tuple[list[Layer], land.Edge]:
        draw, light, horizon = self._draw, self._mood, self._horizon
        rows, greens = 4, self._greens()
        steep = 0.085 if "hills" in self._places else 0.03
        edge = land.rolling(draw, horizon, 0.0, 1.0)
        for row in range(rows):
            near = row / (rows - 1)
            middle = horizon + (0.9 - horizon) * near**1.15 * 0.85
            if "forest" in self._places and row in (1, 2):
                trees = land.rolling(draw, middle, steep * 0.5, 1.5)
                colour = mix(self._tint("forest", "2c5a3a"), (0.9, 0.93, 1.0), 0.35 if self._snowy else 0)
                layers.append(land.forest(draw, light, trees, 0.1 + 0.22 * near, 0.55 * (1 - near), colour))
            edge = land.rolling(draw, middle, steep * (1 - 0.35 * near), 1.6 - 0.5 * near)
            layers.append(land.ground(draw, light, edge, greens, 0.6 * (1 - near), 0.35 if self._snowy else 1.0))
            if row < rows - 1 and "forest" not in self._places:
                leaves = from_hex("d9e2ee" if self._snowy else "4f7a38")
                layers.append(land.copses(draw, light, edge, 0.035 + 0.05 * near, 0.55 * (1 - near), leaves))
        if self._said & {"flowers", "flower"} and not self._snowy:
            count = 900 if "flower" not in self._things else 160
            layers.append(land.blossoms(draw, light, edge, self._aspect, self._petals(), count))
        return layers, edge

    def _petals(self) -> list[Colour]:
        said = [self._tints[name] for name in ("flowers", "flower", "meadow") if name in self._tints]
        return said or [NAMED[name] for name in ("red", "pink", "yellow", "violet", "white")]

    # ---- things

    def _standing(self, edge: land.Edge) -> list[Layer]:
        layers: list[Layer] = []
        for number, thing in enumerate(self._things):
            layers += _BUILDERS[thing](self, self._spot(number, edge), number)
        if "birds" in self._said or (self._wet and self._mood.dark < 0.9 and self._draw.random() < 0.6):
            layers += self._birds()
        return layers

    def _spot(self, number: int, edge: land.Edge) -> _Spot:
        """Away from the light, then on the other side, then between."""
        place = (-0.2, 0.24, 0.02, -0.36, 0.38)[number % 5] + self._uniform(-0.04, 0.04)
        x = place * self._side * self._aspect
        y = float(edge(np.array([x], np.float32))[0]) + 0.02 + 0.05 * (number % 2)
        return _Spot(x, y, self._scale)

    def _birds(self) -> list[Layer]:
        count = int(self._draw.integers(5, 10)) if "birds" in self._said else 3
        x, y = -self._light_x * 0.6, self._horizon * self._uniform(0.3, 0.5)
        return [
            things.bird(
                self._mood,
                x + self._uniform(-0.18, 0.18) * self._scale,
                y + self._uniform(-0.11, 0.11),
                self._uniform(0.012, 0.026) * (1.4 if count > 3 else 0.8),
                self._uniform(0.35, 0.7),
            )
            for _ in range(count)
        ]

    def lighthouse(self, spot: _Spot, number: int) -> list[Layer]:
        size = self._uniform(0.52, 0.6) * spot.scale
        foot = (spot.x, (self._horizon + 0.1) if self._wet else spot.y)
        tower = things.lighthouse(self._mood, foot, size, self._side, self._tint("lighthouse", "c0392f"))
        if not self._wet:
            return [tower]
        return [
            tower,
            things.rocks(self._draw, self._mood, foot[0], foot[1] - 0.012, 0.42 * spot.scale, 0.22),
        ]

    def castle(self, spot: _Spot, number: int) -> list[Layer]:
        size = self._uniform(0.42, 0.5) * spot.scale
        foot = (spot.x * 0.7, spot.y - 0.04 if not self._wet else self._horizon + 0.06)
        layers = [things.castle(self._mood, foot, size, self._tint("castle", "b0a595"), self._side)]
        if self._wet:
            layers.append(things.rocks(self._draw, self._mood, foot[0], foot[1] - 0.012, 0.5 * spot.scale, 0.2))
        return layers

    def pyramid(self, spot: _Spot, number: int) -> list[Layer]:
        stone, base = self._tint("pyramid", "d9b074"), self._horizon + 0.06
        return [
            things.pyramid(self._mood, (spot.x + 0.4 * self._side, base - 0.03), 0.2 * spot.scale, self._side, stone),
            things.pyramid(self._mood, (spot.x, base), 0.36 * spot.scale, self._side, stone),
            *land.dunes(self._draw, self._mood, base, self._tint("desert", "dfae6c"))[1:],
        ]

    def windmill(self, spot: _Spot, number: int) -> list[Layer]:
        return [things.windmill(self._draw, self._mood, (spot.x, spot.y), 0.5 * spot.scale, self._side)]

    def house(self, spot: _Spot, number: int) -> list[Layer]:
        wall = self._tint("house", "ece0c8")
        layers = [things.house(self._mood, (spot.x, spot.y), 0.2 * spot.scale, wall, self._side)]
        if self._snowy:
            roof = [(spot.x + t * 0.12 * spot.scale, spot.y - 0.2 * spot.scale) for t in (-0.62, 0.62)]
            white = self._mood.seen((0.96, 0.97, 1.0))
            layers.append(lambda canvas: canvas.stroke(roof[0], roof[1], (0.012 * spot.scale,) * 2, white))
        return layers

    def palm(self, spot: _Spot, number: int) -> list[Layer]:
        first = things.palm(self._draw, self._mood, (spot.x, spot.y + 0.03), self._uniform(0.5, 0.58) * spot.scale)
        other = (spot.x - 0.13 * self._side * spot.scale, spot.y + 0.05)
        return [first, things.palm(self._draw, self._mood, other, self._uniform(0.34, 0.44) * spot.scale)]

    def tree(self, spot: _Spot, number: int) -> list[Layer]:
        leaves = self._tint("tree", "e9eef6" if self._snowy else "5d8f3f")
        size = self._uniform(0.52, 0.62) * spot.scale * (1 if len(self._things) == 1 else 0.75)
        return [things.tree(self._draw, self._mood, (spot.x, spot.y + 0.03), size, leaves)]

    def boat(self, spot: _Spot, number: int) -> list[Layer]:
        hull, sail = self._tint("boat", "8a3f2c"), from_hex("f6efe0")
        near, size = self._horizon + (1 - self._horizon) * 0.42, self._uniform(0.26, 0.32) * spot.scale
        far = (spot.x - 0.33 * self._aspect * np.sign(spot.x), self._horizon + 0.035)
        return [
            things.boat(self._mood, (float(far[0]), far[1]), size * 0.28, hull, sail, self._side),
            things.boat(self._mood, (spot.x, near), size, hull, sail, self._side),
        ]

    def cactus(self, spot: _Spot, number: int) -> list[Layer]:
        return [
            things.cactus(self._mood, (spot.x + aside * self._aspect, spot.y + low), size * spot.scale, self._side)
            for aside, low, size in ((0.34 * self._side, -0.04, 0.15), (0.0, 0.1, 0.4))
        ]

    def balloon(self, spot: _Spot, number: int) -> list[Layer]:
        said = self._tints.get("balloon")
        colours = (
            [said, from_hex("f4ead2")] if said else [NAMED[name] for name in ("red", "gold", "blue", "white", "teal")]
        )
        places = ((-0.22, 0.3, 0.34), (0.18, 0.2, 0.2), (0.34, 0.42, 0.12), (0.02, 0.45, 0.09))
        return [
            things.balloon(
                self._draw,
                self._mood,
                (x * self._side + self._uniform(-0.05, 0.05)) * self._aspect,
                y + self._uniform(-0.05, 0.05),
                size * spot.scale,
                colours,
            )
            for x, y, size in reversed(places)
        ]

    def cat(self, spot: _Spot, number: int) -> list[Layer]:
        fur = self._tint("cat", "3b3540")
        return [things.cat(self._mood, (spot.x, max(spot.y, 0.84) + 0.05), 0.4 * spot.scale, self._side, fur)]

    def flower(self, spot: _Spot, number: int) -> list[Layer]:
        petal = self._tint("flower", ("d8342c", "f28bb5", "f6cf3a", "8350c8")[int(self._draw.integers(0, 4))])
        return [things.flower(self._draw, self._mood, (spot.x * 0.5, 1.0), 0.8 * spot.scale, petal)]

    # ---- air and manner

    def _air(self) -> list[Layer]:
        layers: list[Layer] = []
        if "fog" in self._said:
            layers.append(weather.fog(self._draw, self._mood, self._horizon))
        if "rain" in self._said:
            layers.append(weather.rain(self._draw, self._mood, self._aspect))
        if self._snowy:
            layers.append(weather.snowfall(self._draw, self._mood, self._aspect))
        return layers

    def _manner(self) -> list[Layer]:
        return [layer for manner, layer in _MANNERS.items() if manner in self._said]


_Builder = Callable[[_Landscape, _Spot, int], list[Layer]]
_BUILDERS: Final[dict[str, _Builder]] = {
    "lighthouse": _Landscape.lighthouse,
    "castle": _Landscape.castle,
    "pyramid": _Landscape.pyramid,
    "windmill": _Landscape.windmill,
    "house": _Landscape.house,
    "palm": _Landscape.palm,
    "tree": _Landscape.tree,
    "boat": _Landscape.boat,
    "cactus": _Landscape.cactus,
    "balloon": _Landscape.balloon,
    "cat": _Landscape.cat,
    "flower": _Landscape.flower,
}
_MANNERS: Final[dict[str, Layer]] = {
    "grey": weather.grade(0.0, 1.1, (1.0, 1.0, 1.0), 1.0),
    "sepia": weather.grade(0.0, 1.0, (1.08, 0.92, 0.7), 1.0),
    "pastel": weather.grade(0.7, 0.72, (1.0, 1.0, 1.0), 1.14),
    "vivid": weather.grade(1.6, 1.12, (1.0, 1.0, 1.0), 1.0),
    "dark": weather.grade(0.9, 1.12, (0.95, 0.97, 1.05), 0.72),
}
