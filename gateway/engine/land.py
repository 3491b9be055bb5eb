"""What lies below the sky: grounds, each with the line of its top edge."""

from collections.abc import Callable

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.colour import Colour, column, from_hex, lighter, mix
from gateway.engine.interface import Plane
from gateway.engine.mood import Mood
from gateway.engine.noise import Noise, smoothstep

Edge = Callable[[Plane], Plane]
"""Returns the height of a ground's top edge at columns (w,)."""


def rolling(draw: np.random.Generator, middle: float, height: float, frequency: float, octaves: int = 2) -> Edge:
    """Return the edge of hills around `middle`."""
    noise = Noise(draw)
    return lambda x: middle - height * (noise.line(x * frequency + 31, octaves) - 0.5) * 2


def jagged(draw: np.random.Generator, foot: float, height: float, frequency: float) -> Edge:
    """Return the edge of mountains that rise up to `height` above `foot`."""
    broad, fine = Noise(draw), Noise(draw)

    def edge(x: Plane) -> Plane:
        mass = 1 - np.abs(4.4 * (broad.line(x * frequency * 1.7 + 13, 2) - 0.5))
        crags = 1 - np.abs(4 * (fine.line(x * frequency * 4.5 + 5, 5) - 0.5))
        top: Plane = foot - height * (0.2 + 0.62 * np.clip(mass, -0.1, 1) + 0.26 * (crags - 0.5))
        return top

    return edge


def mountains(draw: np.random.Generator, mood: Mood, edge: Edge, far: float, rock: Colour, snow: float) -> Layer:
    """A mountain range with a lit and a shaded side, and snow down to `snow` below its edge (0 = none)."""
    faces = Noise(draw)
    lit, shade = mood.seen(lighter(rock, 1.25), far), mood.seen(lighter(rock, 0.62), far)
    white, blue = mood.seen((0.97, 0.97, 1.0), far * 0.8), mood.seen((0.62, 0.7, 0.86), far * 0.8)

    def layer(canvas: Canvas) -> None:
        top = edge(canvas.x)
        part = canvas.cut(top=float(top.min()))
        if part.empty:
            return
        down = part.y[:, None] - top
        slope = (edge(part.x + 0.07) - edge(part.x - 0.07)) / 0.14
        rough = faces.at(part.x * 8 + part.y[:, None] * 5, part.y[:, None] * 6 - part.x * 2, 4)
        side = np.clip(0.5 - 0.5 * slope + 4.5 * (rough - 0.5), 0, 1)
        paint = column(shade) + side * (column(lit) - column(shade))
        if snow:
            cap = smoothstep(snow, snow * 0.6, down + 0.5 * (rough - 0.5))
            paint = paint + cap * (column(blue) + side * (column(white) - column(blue)) - paint)
        # The foot of a range drowns in haze.
        paint = paint + 0.4 * far * np.clip(down / 0.32, 0, 1) * (column(mood.haze) - paint)
        part.lay(part.soft(down), paint)

    return layer


def ground(
    draw: np.random.Generator,
    mood: Mood,
    edge: Edge,
    colours: tuple[Colour, Colour],
    far: float,
    grain: float = 1.0,
) -> Layer:
    """A soft ground between two colours: hills, grass, sand, snow; `grain` is how rough it looks."""
    patches, blades = Noise(draw), Noise(draw)
    first, second = (mood.seen(colour, far) for colour in colours)

    def layer(canvas: Canvas) -> None:
        top = edge(canvas.x)
        part = canvas.cut(top=float(top.min()))
        if part.empty:
            return
        down = part.y[:, None] - top
        depth = np.clip(part.y, 0, 1) ** 2
        tone = patches.grid(part.x * 3.2, part.y * 9 + 3, 3)
        fine = blades.grid(part.x * 40, part.y * 40 * (1 + 2 * far), 3) - 0.5
        slope = (edge(part.x + 0.03) - edge(part.x - 0.03)) / 0.06
        part_of_second = np.clip(tone * 1.6 - 0.3 + 0.5 * slope, 0, 1)
        paint = column(first) + part_of_second * (column(second) - column(first))
        rim = 1 + 0.2 * np.exp(-np.clip(down, 0, 9) / 0.035) - 0.32 * np.clip(down - 0.05, 0, 0.8)
        paint = paint * (rim + 0.42 * grain * fine * (0.25 + depth[:, None]))
        part.lay(part.soft(down), paint)

    return layer


def water(
    draw: np.random.Generator,
    mood: Mood,
    horizon: float,
    light_x: float | None,
    colour: Colour | None,
    calm: float,
) -> Layer:
    """Water from the horizon down: the sky upside down, waves, and the path of light below sun or moon."""
    waves, sparks = Noise(draw), Noise(draw)
    deep = mood.seen(colour or from_hex("12506e"))

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(top=horizon)
        if part.empty:
            return
        near = np.clip((part.y - horizon) / (1 - horizon), 0, 1)
        away = 1 / (near + 0.045)
        across = part.x * (1.6 + away[:, None] * 0.85)
        swell = waves.at(across, (away * 5.5)[:, None] + 0 * part.x, 3) - 0.5
        swell = swell * np.minimum(1, near * 5 + 0.12)[:, None]
        mirrored = mood.sky(np.clip(1 - near[:, None] * 0.9 + swell * (1.3 - calm), 0, 1))
        part_deep = (0.16 + 0.62 * near)[:, None] - 0.85 * swell
        paint = mirrored + np.clip(part_deep, 0, 0.92) * (column(deep) - mirrored)
        part.lay(part.soft(part.y - horizon)[:, None], paint)
        crests = smoothstep(0.12, 0.26, swell) * (near * (0.42 - 0.3 * calm))[:, None]
        part.lay(np.clip(crests, 0, 1), mood.seen((0.97, 0.99, 1.0)))
        if light_x is not None:
            glints = sparks.at(across * 1.6, (away * 13)[:, None] + 0 * part.x, 3)
            width = (0.028 + 0.17 * near)[:, None]
            path = np.exp(-(((part.x - light_x) / width) ** 2))
            part.shine(path * smoothstep(0.4, 0.68, glints) * (1.05 - 0.5 * near)[:, None], mood.glow)
            part.shine(0.22 * np.exp(-(((part.x - light_x) / (width * 2.4)) ** 2)), mood.glow)

    return layer


def forest(draw: np.random.Generator, mood: Mood, edge: Edge, height: float, far: float, colour: Colour) -> Layer:
    """A row of firs along an edge; `height` is that of a large one."""
    count = int(20 / height)
    places = (np.linspace(-1.8, 1.8, count) + draw.uniform(-0.3, 0.3, count) * height).tolist()
    sizes = (height * draw.uniform(0.45, 1.0, count)).tolist()
    rough, tone = Noise(draw), Noise(draw)
    dark, light = mood.seen(lighter(colour, 0.6), far), mood.seen(lighter(colour, 1.3), far)

    def layer(canvas: Canvas) -> None:
        foot = edge(canvas.x)
        part = canvas.cut(top=float(foot.min()) - height)
        if part.empty:
            return
        sway = (rough.grid(part.x * 9 / height, part.y * 9 / height, 2) - 0.5) * height * 0.04
        cover = part.soft(part.y[:, None] - foot + height * 0.12)
        for x, size in zip(places, sizes, strict=True):
            _fir(part, cover, sway, (x, float(edge(np.array([x], np.float32))[0]) + height * 0.14), size)
        shading = np.clip(tone.grid(part.x * 5 / height, part.y * 11 / height, 3) * 1.5 - 0.35, 0, 1)
        paint = column(dark) + shading * (column(light) - column(dark))
        part.lay(cover, paint + 0.35 * np.clip((part.y[:, None] - foot) / 0.3, 0, 1) * (column(dark) - paint))

    return layer


def copses(draw: np.random.Generator, mood: Mood, edge: Edge, size: float, far: float, leaves: Colour) -> Layer:
    """Groups of round trees and bushes along an edge; `size` is the height of a large one."""
    groups = draw.uniform(-1.1, 1.1, 6)
    members = np.repeat(groups, 6) + draw.normal(0, size * 1.1, 36)
    feet = edge(members.astype(np.float32)) + size * 0.12 + draw.uniform(0, 0.5, 36) * size
    order = np.argsort(feet)
    sizes, hues = size * draw.uniform(0.3, 0.62, 36), draw.uniform(0.75, 1.15, 36)
    rough = Noise(draw)

    def layer(canvas: Canvas) -> None:
        for x, foot, radius, hue in zip(members[order], feet[order], sizes, hues, strict=True):
            _bush(
                canvas,
                rough,
                (float(x), float(foot - radius * 0.8)),
                float(radius),
                mood.seen(lighter(leaves, float(hue)), far),
            )

    return layer


def _bush(canvas: Canvas, rough: Noise, middle: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = middle
    part = canvas.cut(x - radius * 1.4, x + radius * 1.4, y - radius * 1.4, y + radius * 1.2)
    if part.empty:
        return
    leaf = rough.grid(part.x / radius * 2.2, part.y / radius * 2.2, 4) - 0.5
    down = ((part.y - y) / radius)[:, None]
    gap = part.distance(x, y) + np.maximum(down - 0.6, 0) * radius
    light = 0.86 - 0.34 * down - 0.12 * (part.x - x) / radius + 1.3 * leaf
    part.lay(part.soft(radius + leaf * radius * 0.9 - gap), column(colour) * light)


def _fir(canvas: Canvas, cover: Plane, sway: Plane, foot: tuple[float, float], size: float) -> None:
    x, y = foot
    columns = slice(*np.searchsorted(canvas.x, (x - size * 0.35, x + size * 0.35)).tolist())
    rows = slice(*np.searchsorted(canvas.y, (y - size * 1.05, y)).tolist())
    down = ((canvas.y[rows] - (y - size)) / size)[:, None]
    # Branches: a saw whose teeth grow towards the foot.
    tiers = (down * 8) % 1
    width = size * (0.015 + 0.25 * np.clip(down, 0, 1) * (0.62 + 0.38 * tiers))
    inside = width - np.abs(canvas.x[columns] - x + sway[rows, columns])
    cover[rows, columns] = np.maximum(cover[rows, columns], canvas.soft(inside))


def city(draw: np.random.Generator, mood: Mood, foot: float, height: float, far: float, colour: Colour) -> Layer:
    """A skyline; its windows are lit when it is dark."""
    edges = np.cumsum(draw.uniform(0.035, 0.1, 70)) - 2.4
    tall = draw.random(71) ** 1.6
    roofs = foot - height * (0.28 + 0.72 * tall * np.exp(-((np.append(edges, 2.4) / 1.3) ** 2)))
    lamps = draw.random((71, 64), dtype=np.float32)
    shades = draw.uniform(0.75, 1.2, 71)
    wall, haze = mood.seen(colour, far), mood.haze
    yellow, white = from_hex("ffd27a"), from_hex("d8ecff")

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(top=foot - height)
        if part.empty:
            return
        house = np.searchsorted(edges, part.x)
        roof = roofs[house].astype(np.float32)
        down = part.y[:, None] - roof
        paint = column(wall) * shades[house].astype(np.float32)
        rise = np.clip((foot - part.y) / height, 0, 1)[:, None]
        paint = paint + 0.4 * (1 - rise) * (column(haze) - paint)
        cover = part.soft(down)
        across, floors = part.x * 92, (part.y * 62)[:, None]
        room = (house[None, :], (floors.astype(int) * 7 + across.astype(int) * 3) % 64)
        pane = (_bump(across) * _bump(floors)) * (down > 0.012)
        lit = (lamps[room] > 0.85 - 0.4 * mood.dark) * pane * (0.25 + 0.75 * mood.dark)
        lamp = mix(yellow, white, 0.25) if mood.dark > 0.4 else mood.seen((0.75, 0.85, 0.95), far)
        paint = paint + np.clip(lit, 0, 1) * (1 - 0.6 * far) * (column(lamp) - paint)
        part.lay(cover, paint)

    return layer


def _bump(place: Plane) -> Plane:
    part = place % 1
    return smoothstep(0.18, 0.34, part) * smoothstep(0.86, 0.7, part)


def dunes(draw: np.random.Generator, mood: Mood, horizon: float, colour: Colour) -> list[Layer]:
    """Rows of dunes, each with a lit and a shaded side and wind ripples."""
    rows = 4
    return [
        _dune(
            draw,
            mood,
            horizon + (1 - horizon) * (number / rows) ** 1.25,
            0.06 + 0.05 * number,
            number / rows,
            colour,
        )
        for number in range(rows)
    ]


def _dune(draw: np.random.Generator, mood: Mood, middle: float, height: float, near: float, colour: Colour) -> Layer:
    crest, ripple, fold = rolling(draw, middle, height, 1.5 - 0.6 * near), Noise(draw), Noise(draw)
    far = 0.55 * (1 - near)
    lit, shade = (
        mood.seen(lighter(colour, 1.12), far),
        mood.seen(mix(lighter(colour, 0.55), (0.45, 0.3, 0.42), 0.35), far),
    )

    def layer(canvas: Canvas) -> None:
        top = crest(canvas.x)
        part = canvas.cut(top=float(top.min()))
        if part.empty:
            return
        down = part.y[:, None] - top
        bend = (fold.line(part.x * 1.7, 2) - 0.5) * 0.35
        side = smoothstep(-0.03, 0.05, part.x * 0 + bend + down * 0.5 - 0.08 + 0.05 * np.sin(part.x * 3.1 + near * 9))
        waves = np.sin((down * 130 + ripple.at(part.x * 4, down * 9, 3) * 22) * (1.4 - near)) * 0.035 * (0.3 + near)
        paint = column(shade) + side * (column(lit) - column(shade))
        part.lay(part.soft(down), paint * (1 + waves + 0.1 * np.exp(-np.clip(down, 0, 9) / 0.02)))

    return layer


def blossoms(
    draw: np.random.Generator, mood: Mood, edge: Edge, aspect: float, colours: list[Colour], count: int = 420
) -> Layer:
    """Flowers in a meadow, small by the edge and large at the bottom."""
    near = np.sort(draw.random(count) ** 0.8)
    across = draw.uniform(-0.55, 0.55, count) * aspect
    petals = [mood.seen(lighter(colours[int(i)], 1.05)) for i in draw.integers(0, len(colours), count)]
    heart, stem = mood.seen(from_hex("f7d04a")), mood.seen(from_hex("3d6b2f"))
    tops = edge(across.astype(np.float32)) + 0.015

    def layer(canvas: Canvas) -> None:
        for depth, x, top, petal in zip(near.tolist(), across.tolist(), tops.tolist(), petals, strict=True):
            y = top + (1.02 - top) * depth
            size = 0.0035 + 0.017 * depth * depth
            if depth > 0.25:
                canvas.stroke((x, y), (x + size * 0.4, y + size * 3.5), (size * 0.14, size * 0.1), stem)
            _blossom(canvas, x, y, size, petal, heart)

    return layer


def _blossom(canvas: Canvas, x: float, y: float, size: float, petal: Colour, heart: Colour) -> None:
    part = canvas.cut(x - size, x + size, y - size, y + size)
    if part.empty:
        return
    across, down = (part.x - x), (part.y - y)[:, None] * 1.35
    gap = np.hypot(across, down)
    turn = np.arctan2(down, across + 0 * down)
    rim = size * (0.72 + 0.28 * np.cos(turn * 5 + x * 90))
    shade = (0.78 + 0.3 * gap / size - 0.25 * down / size) * np.ones((3, 1, 1), np.float32)
    part.lay(part.soft(rim - gap), column(petal) * shade)
    part.lay(part.soft(size * 0.26 - gap), heart)
