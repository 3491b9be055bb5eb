"""Things that stand in a landscape; `x`, `y` is the middle of the foot, `size` the height."""

import math
from itertools import pairwise

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.colour import Colour, column, from_hex, lighter, mix
from gateway.engine.interface import Plane
from gateway.engine.mood import Mood
from gateway.engine.noise import Noise, smoothstep

Point = tuple[float, float]


def _round_light(canvas: Canvas, x: float, half: float | Plane, side: float) -> Plane:
    """How light a standing cylinder looks across its width; `side` is -1 with the light at the left, 1 at the right."""
    across = np.clip((canvas.x - x) / half, -1, 1)
    light: Plane = 0.86 + 0.3 * side * across - 0.28 * across * across
    return light


def lighthouse(mood: Mood, foot: Point, size: float, side: float, stripe: Colour) -> Layer:
    """A lighthouse with stripes, a gallery, a lamp, and its beam when it is dark."""
    x, y = foot
    top, wide, slim = y - size * 0.78, size * 0.125, size * 0.078
    white, colour = mood.seen((0.97, 0.95, 0.91)), mood.seen(stripe)

    def layer(canvas: Canvas) -> None:
        if mood.dark > 0.3:
            _beam(canvas, mood, x, top - size * 0.075, size)
        part = canvas.cut(x - wide, x + wide, top, y + size * 0.05)
        if not part.empty:
            down = ((part.y - top) / (y - top))[:, None]
            half = slim + (wide - slim) * np.clip(down, 0, 1.2) ** 1.35
            bands = smoothstep(-0.03, 0.03, np.sin(down * math.pi * 5) / 5)
            paint = column(white) + bands * (column(colour) - column(white))
            part.lay(
                part.soft(half - np.abs(part.x - x)) * part.soft(down + 0 * part.x),
                paint * _round_light(part, x, half, side),
            )
        for number, height in enumerate((0.62, 0.36)):
            _pane(canvas, mood, x + slim * (0.2 - 0.4 * number), y - size * height, size * 0.014)
        _lantern(canvas, mood, (x, top), size, slim, stripe)

    return layer


def _beam(canvas: Canvas, mood: Mood, x: float, y: float, size: float) -> None:
    for way, reach, fall in ((-1.0, 2.2, 0.16), (1.0, 1.6, -0.1)):
        across = np.clip((canvas.x - x) * way, 0, 9)
        down = np.abs((canvas.y - y)[:, None] - across * fall)
        spread = 0.012 * size + across * 0.13
        cone = np.exp(-((down / spread) ** 2)) * (across > 0) * np.exp(-across / reach)
        canvas.shine(0.5 * mood.dark * cone, from_hex("fff0b8"))


def _lantern(canvas: Canvas, mood: Mood, top: Point, size: float, slim: float, stripe: Colour) -> None:
    x, y = top
    iron, lamp = mood.seen(from_hex("2a2d38")), from_hex("fff3bd")
    room, high = slim * 0.62, size * 0.105
    canvas.convex(_box(x, y - high, room * 2, high), mix(mood.seen(from_hex("9fb4bf")), lamp, 0.3 + 0.65 * mood.dark))
    for bar in (-1.0, -0.34, 0.34, 1.0):
        canvas.stroke((x + bar * room, y - high), (x + bar * room, y), (size * 0.005, size * 0.005), iron)
    canvas.convex(_box(x, y - size * 0.008, slim * 2.9, size * 0.022), iron)
    for post in np.linspace(-1.35, 1.35, 7).tolist():
        canvas.stroke((x + post * slim, y), (x + post * slim, y - size * 0.045), (size * 0.0028,) * 2, iron)
    canvas.stroke((x - slim * 1.35, y - size * 0.045), (x + slim * 1.35, y - size * 0.045), (size * 0.0035,) * 2, iron)
    roof = y - high
    dome = [(x - room * 1.3, roof), (x - room * 0.8, roof - size * 0.045), (x, roof - size * 0.075)]
    dome += [(x + room * 0.8, roof - size * 0.045), (x + room * 1.3, roof)]
    canvas.convex(dome, mood.seen(lighter(stripe, 0.8)))
    canvas.stroke((x, roof - size * 0.07), (x, roof - size * 0.12), (size * 0.006, size * 0.003), iron)
    if mood.dark > 0.3:
        gap = canvas.distance(x, y - high * 0.5)
        canvas.shine(1.1 * mood.dark * np.exp(-gap / (size * 0.085)), from_hex("ffe9a6"))


def _box(x: float, top: float, width: float, height: float) -> list[Point]:
    """The corners of a standing rectangle around the column `x`."""
    left, right, bottom = x - width / 2, x + width / 2, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _pane(canvas: Canvas, mood: Mood, x: float, y: float, half: float) -> None:
    """A window, lit when it is dark, with its glow."""
    lit = from_hex("ffd680")
    canvas.convex(_box(x, y - half * 1.5, half * 2, half * 3), mix(mood.seen(from_hex("37495c")), lit, mood.dark))
    if mood.dark > 0.3:
        part = canvas.cut(x - half * 7, x + half * 7, y - half * 7, y + half * 7)
        if not part.empty:
            part.shine(0.4 * mood.dark * np.exp(-((part.distance(x, y) / (half * 2.6)) ** 2)), lit)


def rocks(draw: np.random.Generator, mood: Mood, x: float, y: float, width: float, height: float) -> Layer:
    """A cliff that rises out of the picture's lower part, with grass on it; its top is flat around `x`."""
    shape, face, grass_line = Noise(draw), Noise(draw), Noise(draw)
    rock, dark = mood.seen(from_hex("7d6f66")), mood.seen(from_hex("3a3436"))
    grass = mood.seen(from_hex("6d8a45"))

    def layer(canvas: Canvas) -> None:
        away = np.abs(canvas.x - x) / width
        rough = (shape.line(canvas.x * 9 + 3, 4) - 0.5) * 0.13 * smoothstep(0.1, 0.55, away)
        top = y + height * smoothstep(0.35, 1.25, away + rough * 2) ** 1.2 * 1.6 + rough
        part = canvas.cut(top=float(top.min()))
        if part.empty:
            return
        down = part.y[:, None] - top
        grain = face.at(part.x * 9 + down * 2, (part.y * 5)[:, None] + 0 * part.x, 4)
        paint = column(dark) + np.clip(grain * 2.4 - 0.75, 0, 1) * (column(rock) - column(dark))
        turf = smoothstep(
            0.055,
            0.015,
            down + 0.12 * (grass_line.grid(part.x * 24, part.y * 24, 3) - 0.5) + 0.09 * away - 0.02,
        )
        paint = paint + turf * (column(grass) * (0.75 + 0.5 * grain) - paint)
        part.lay(part.soft(down), paint)

    return layer


def _shadow(canvas: Canvas, foot: Point, reach: float) -> None:
    """The soft shadow on the ground under a thing."""
    x, y = foot
    part = canvas.cut(x - reach * 1.6, x + reach * 1.6, y - reach * 0.5, y + reach * 0.5)
    if not part.empty:
        gap = part.distance(x, y, flat=4.0) * 4.0 / reach
        part.paint[...] *= 1 - 0.5 * np.exp(-gap * gap)


def tree(draw: np.random.Generator, mood: Mood, foot: Point, size: float, leaves: Colour) -> Layer:
    """A broad tree: a trunk with boughs, and a crown of many tufts from dark to light."""
    x, y = foot
    bark = mood.seen(from_hex("4f3a2a"))
    boughs = [(float(draw.uniform(-0.3, 0.3)), float(draw.uniform(0.55, 0.8))) for _ in range(7)]
    turns, reach = draw.uniform(0, 2 * math.pi, 110), np.sqrt(draw.random(110))
    across, up = reach * np.cos(turns) * 0.37, 0.64 + reach * np.sin(turns) * 0.29
    order = np.argsort(up * 0.8 - across * 0.35 + draw.uniform(-0.18, 0.18, 110))
    tufts = [(float(across[i]), float(up[i]), float(draw.uniform(0.05, 0.1))) for i in order]
    hues = draw.uniform(-0.12, 0.12, 110).tolist()
    noise = Noise(draw)

    def layer(canvas: Canvas) -> None:
        _shadow(canvas, foot, size * 0.3)
        root = [
            (x - size * 0.028, y - size * 0.5),
            (x + size * 0.028, y - size * 0.5),
            (x + size * 0.05, y),
            (x - size * 0.05, y),
        ]
        part = canvas.cut_around(root)
        if not part.empty:
            rills = 0.75 + 0.5 * noise.grid(part.x / size * 60, part.y / size * 9, 2)
            part.lay(part.within(root), column(bark) * rills)
        for aside, height in boughs:
            canvas.stroke((x, y - size * 0.3), (x + aside * size, y - height * size), (size * 0.02, size * 0.006), bark)
        for number, ((aside, height, radius), hue) in enumerate(zip(tufts, hues, strict=True)):
            light = 0.5 + 0.75 * number / len(tufts) + hue
            tuft = mood.seen(lighter(leaves, light))
            _tuft(
                canvas,
                noise,
                (x + aside * size, y - height * size),
                radius * size,
                mix(tuft, mood.glow, 0.1 * (light > 1)),
            )

    return layer


def _tuft(canvas: Canvas, noise: Noise, middle: Point, radius: float, colour: Colour) -> None:
    x, y = middle
    part = canvas.cut(x - radius * 1.4, x + radius * 1.4, y - radius * 1.4, y + radius * 1.4)
    if not part.empty:
        ragged = (noise.grid(part.x / radius * 2.6, part.y / radius * 2.6, 3) - 0.5) * radius * 1.5
        shade = 1 - 0.28 * np.clip((part.y - y) / radius, -1, 1)[:, None] * np.ones((3, 1, 1), np.float32)
        part.lay(part.soft(radius - part.distance(x, y) + ragged), column(colour) * shade)


def palm(draw: np.random.Generator, mood: Mood, foot: Point, size: float) -> Layer:
    """A palm with a bent trunk."""
    x, y = foot
    bend = float(draw.choice([-1, 1])) * float(draw.uniform(0.12, 0.3)) * size
    bark, leaf = mood.seen(from_hex("6b5238")), from_hex("3f8040")
    turns = (np.linspace(-0.35, math.pi + 0.35, 11) + draw.uniform(-0.12, 0.12, 11)).tolist()

    def layer(canvas: Canvas) -> None:
        spine = [(x + bend * t * t, y - size * 0.8 * t) for t in np.linspace(0, 1, 12).tolist()]
        for number, (start, end) in enumerate(pairwise(spine)):
            width = size * (0.03 - 0.0013 * number)
            canvas.stroke(start, end, (width, width * 0.9), lighter(bark, 0.85 + 0.25 * (number % 2)))
        for number, turn in enumerate(turns):
            _frond(canvas, spine[-1], turn, size * 0.42, mood.seen(lighter(leaf, 0.7 + 0.06 * number)))

    return layer


def _frond(canvas: Canvas, root: Point, turn: float, length: float, colour: Colour) -> None:
    x, y = root
    for t in np.linspace(0, 1, 15).tolist():
        px = x + math.cos(turn) * length * t
        py = y - math.sin(turn) * length * t * 0.75 + length * 0.55 * t * t
        drop = length * 0.3 * (1 - t) * t * 3 + length * 0.05
        for aside in (-0.25, 0.3):
            canvas.stroke(
                (px, py),
                (px + aside * drop + math.cos(turn) * drop * 0.5, py + drop * 0.8),
                (length * 0.016, 0.0008),
                colour,
            )


def boat(mood: Mood, foot: Point, size: float, hull: Colour, sail: Colour, way: float) -> Layer:
    """A sailing boat and its reflection; `way` is 1 or -1."""
    x, y = foot
    wood, canvas_white = mood.seen(hull), mood.seen(sail)

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(x - size * 0.5, x + size * 0.5, y, y + size * 0.8)
        if not part.empty:
            down = ((part.y - y) / size)[:, None]
            wobble = 0.03 * size * np.sin(down * 60) * (0.3 + down)
            shade = part.soft(size * 0.3 * np.clip(1 - down * 1.3, 0, 1) - np.abs(part.x - x + wobble))
            part.lay(0.4 * shade * np.exp(-down * 2.5), mix(wood, canvas_white, 0.45))
        mast = x - way * size * 0.03
        rear = [
            (mast - way * 0.02 * size, y - size),
            (mast - way * 0.02 * size, y - size * 0.17),
            (mast - way * size * 0.36, y - size * 0.17),
        ]
        fore = [
            (mast + way * 0.03 * size, y - size * 0.93),
            (mast + way * size * 0.34, y - size * 0.2),
            (mast + way * 0.03 * size, y - size * 0.2),
        ]
        canvas.convex(_clockwise(rear), canvas_white)
        canvas.convex(_clockwise(fore), lighter(canvas_white, 0.88))
        canvas.stroke((mast, y - size * 1.03), (mast, y - size * 0.1), (size * 0.008,) * 2, lighter(wood, 0.6))
        deck, keel = y - size * 0.13, y + size * 0.01
        canvas.convex(
            [
                (x - size * 0.38, deck),
                (x + size * 0.38, deck),
                (x + size * 0.27, keel),
                (x - size * 0.28, keel),
            ],
            wood,
        )
        canvas.stroke((x - size * 0.38, deck), (x + size * 0.38, deck), (size * 0.012,) * 2, mix(wood, (1, 1, 1), 0.5))

    return layer


def _clockwise(corners: list[Point]) -> list[Point]:
    turn = sum((x2 - x1) * (y2 + y1) for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True))
    return corners if turn < 0 else corners[::-1]


def house(mood: Mood, foot: Point, size: float, wall: Colour, side: float) -> Layer:
    """A house with a gable, a door, windows and a chimney."""
    x, y = foot
    plaster, tiles = mood.seen(wall), mood.seen(from_hex("a5482f"))
    width, high = size * 1.15, size * 0.55

    def layer(canvas: Canvas) -> None:
        _shadow(canvas, foot, width * 0.75)
        canvas.convex(_box(x + width * 0.26, y - size * 1.02, size * 0.12, size * 0.35), lighter(tiles, 0.75))
        canvas.convex(_box(x, y - high, width, high + size * 0.05), plaster)
        canvas.convex(
            _box(x + side * -width * 0.32, y - high, width * 0.36, high + size * 0.05), lighter(plaster, 0.85)
        )
        roof = [
            (x - width * 0.58, y - high),
            (x - width * 0.3, y - size),
            (x + width * 0.3, y - size),
            (x + width * 0.58, y - high),
        ]
        canvas.convex(roof, tiles)
        for row in range(1, 5):
            down = y - size + (size - high) * row / 5
            reach = width * (0.3 + 0.28 * row / 5)
            canvas.stroke((x - reach, down), (x + reach, down), (size * 0.006,) * 2, lighter(tiles, 0.8))
        canvas.convex(_box(x, y - size * 0.3, size * 0.17, size * 0.32), mood.seen(from_hex("5b3d2b")))
        for aside in (-0.33, 0.33):
            _pane(canvas, mood, x + aside * width, y - size * 0.28, size * 0.055)

    return layer


def castle(mood: Mood, foot: Point, size: float, stone: Colour, side: float) -> Layer:
    """A castle: a wall with battlements and five towers with pointed roofs."""
    x, y = foot
    wall = mood.seen(stone)
    towers = [
        (-0.2, 0.72, 0.075),
        (0.19, 0.8, 0.075),
        (0.0, 1.0, 0.1),
        (-0.42, 0.52, 0.085),
        (0.42, 0.55, 0.085),
    ]

    def layer(canvas: Canvas) -> None:
        for number, (aside, height, half) in enumerate(towers):
            if number == 3:
                _battlements(canvas, x, y - size * 0.34, size * 0.84, size * 0.4, lighter(wall, 0.92))
            _turret(canvas, mood, (x + aside * size, y), (height * size, half * size), wall, side)
        gate = canvas.cut(x - size * 0.08, x + size * 0.08, y - size * 0.2, y + size * 0.05)
        if not gate.empty:
            arch = np.minimum(
                size * 0.07 - np.abs(gate.x - x),
                np.where(gate.y < y - size * 0.1, size * 0.07 - gate.distance(x, y - size * 0.1).T, 1).T,
            )
            gate.lay(gate.soft(arch), mood.seen(from_hex("33241f")))

    return layer


def _battlements(canvas: Canvas, x: float, top: float, width: float, height: float, colour: Colour) -> None:
    canvas.convex(_box(x, top, width, height), colour)
    count = max(3, int(width / (height * 0.14)))
    for place in np.linspace(-0.5, 0.5, count).tolist():
        canvas.convex(_box(x + place * width, top - height * 0.07, width / count * 0.55, height * 0.08), colour)


def _turret(canvas: Canvas, mood: Mood, foot: Point, edges: Point, wall: Colour, side: float) -> None:
    (x, y), (height, half) = foot, edges
    top = y - height * 0.72
    part = canvas.cut(x - half, x + half, top, y + half)
    if not part.empty:
        joints = 1 - 0.09 * smoothstep(0.8, 0.95, (part.y / half * 3.3) % 1)[:, None]
        part.lay(
            part.within(_box(x, top, half * 2, y + half - top)),
            column(wall) * _round_light(part, x, half, side) * joints,
        )
    _battlements(canvas, x, top - half * 0.1, half * 2.3, half * 0.6, lighter(wall, 1.05))
    roof = mood.seen(from_hex("4a5a8c"))
    tip = (x, y - height * 1.02)
    canvas.convex(_clockwise([(x - half * 1.1, top - half * 0.1), tip, (x + half * 1.1, top - half * 0.1)]), roof)
    shaded = x - side * half * 1.1
    canvas.convex(_clockwise([(x, top - half * 0.1), tip, (shaded, top - half * 0.1)]), lighter(roof, 0.75))
    _pane(canvas, mood, x, top + height * 0.16, half * 0.2)


def windmill(draw: np.random.Generator, mood: Mood, foot: Point, size: float, side: float) -> Layer:
    """A windmill."""
    x, y = foot
    wall, cap = mood.seen(from_hex("e9e1d0")), mood.seen(from_hex("7a3b2e"))
    wood = mood.seen(from_hex("5a4331"))
    turn = float(draw.uniform(0.2, 1.3))

    def layer(canvas: Canvas) -> None:
        top = y - size * 0.62
        _shadow(canvas, foot, size * 0.32)
        body = [(x - size * 0.11, top), (x + size * 0.11, top), (x + size * 0.19, y), (x - size * 0.19, y)]
        part = canvas.cut_around(body)
        if not part.empty:
            part.lay(part.within(body), column(wall) * _round_light(part, x, size * 0.17, side))
        canvas.convex(
            [
                (x - size * 0.13, top),
                (x - size * 0.06, top - size * 0.12),
                (x + size * 0.06, top - size * 0.12),
                (x + size * 0.13, top),
            ],
            cap,
        )
        canvas.convex(_box(x, y - size * 0.16, size * 0.09, size * 0.16), wood)
        _pane(canvas, mood, x, y - size * 0.38, size * 0.024)
        for arm in range(4):
            _sail(
                canvas,
                (x, top - size * 0.02),
                turn + arm * math.pi / 2,
                size * 0.5,
                wood,
                lighter(wall, 0.95),
            )

    return layer


def _sail(canvas: Canvas, hub: Point, turn: float, length: float, wood: Colour, cloth: Colour) -> None:
    (x, y), (dx, dy) = hub, (math.cos(turn) * length, math.sin(turn) * length)
    near, far, wide = 0.2, 0.98, 0.24
    sheet = [(x + dx * near, y + dy * near), (x + dx * far, y + dy * far)]
    sheet += [
        (x + dx * far - dy * wide, y + dy * far + dx * wide),
        (x + dx * near - dy * wide, y + dy * near + dx * wide),
    ]
    canvas.convex(_clockwise(sheet), cloth)
    canvas.stroke(hub, (x + dx, y + dy), (length * 0.02, length * 0.014), wood)
    for bar in np.linspace(near, far, 6).tolist():
        start = (x + dx * bar, y + dy * bar)
        canvas.stroke(start, (start[0] - dy * wide, start[1] + dx * wide), (length * 0.008,) * 2, wood)


def balloon(draw: np.random.Generator, mood: Mood, x: float, y: float, size: float, colours: list[Colour]) -> Layer:
    """A hot-air balloon whose envelope's middle is at `x`, `y`."""
    radius = size * 0.36
    first, second = (mood.seen(colours[int(i)]) for i in draw.permutation(len(colours))[:2])
    basket = mood.seen(from_hex("6e4a2c"))

    def layer(canvas: Canvas) -> None:
        bottom = y + radius * 1.75
        for aside in (-1.0, 1.0):
            canvas.stroke(
                (x + aside * radius * 0.3, y + radius * 1.2),
                (x + aside * radius * 0.13, bottom),
                (size * 0.004,) * 2,
                basket,
            )
        part = canvas.cut(x - radius, x + radius, y - radius, y + radius * 1.35)
        if not part.empty:
            down = ((part.y - y) / radius)[:, None]
            lower = np.clip(down, 0, 1.3)
            half = np.sqrt(np.clip(1 - np.clip(-down, 0, 1) ** 2, 0, 1)) * (1 - 0.42 * lower**1.7)
            across = np.clip((part.x - x) / radius / np.maximum(half, 0.05), -1, 1)
            gores = smoothstep(-0.12, 0.12, np.sin(np.arcsin(across) * 6 + 0.4))
            light = 0.8 + 0.32 * np.sqrt(np.clip(1 - across**2, 0, 1)) - 0.18 * across - 0.12 * down
            paint = (column(first) + gores * (column(second) - column(first))) * light
            part.lay(
                part.soft((half - np.abs(part.x - x) / radius) * radius) * part.soft((1.3 - down) * radius),
                paint,
            )
            part.shine(0.3 * mood.dark * np.exp(-((part.distance(x, y + radius) / radius) ** 2)), from_hex("ffc870"))
        canvas.convex(_box(x, bottom, radius * 0.32, radius * 0.28), basket)

    return layer


def cactus(mood: Mood, foot: Point, size: float, side: float) -> Layer:
    """A saguaro."""
    x, y = foot
    green = mood.seen(from_hex("4d7a45"))
    arms = [(-0.24, 0.42, 0.68, 0.05), (0.22, 0.55, 0.86, 0.045)]

    def layer(canvas: Canvas) -> None:
        for shift, shade in ((0.0, 0.72), (side * 0.018, 1.05)):
            colour = lighter(green, shade)
            canvas.stroke(
                (x + shift * size, y),
                (x + shift * size, y - size * 0.93),
                (size * (0.075 - abs(shift)), size * (0.068 - abs(shift))),
                colour,
            )
            for aside, low, high, half in arms:
                thick = (half - abs(shift) * 0.7) * size
                elbow = (x + (aside + shift) * size, y - low * size)
                canvas.stroke((x, y - low * size), elbow, (thick, thick), colour)
                canvas.stroke(elbow, (elbow[0], y - high * size), (thick, thick * 0.9), colour)

    return layer


def pyramid(mood: Mood, foot: Point, size: float, side: float, stone: Colour) -> Layer:
    """A pyramid with courses of stone."""
    x, y = foot
    lit, shade = mood.seen(stone, 0.1), mood.seen(mix(lighter(stone, 0.55), (0.4, 0.28, 0.4), 0.2), 0.1)
    reach = size * 0.85

    def layer(canvas: Canvas) -> None:
        tip, ridge = (x, y - size), (x - side * reach * 0.35, y + size * 0.04)
        for corner, colour in ((x + side * reach, lit), (x - side * reach, shade)):
            face = _clockwise([tip, ridge, (corner, y)])
            part = canvas.cut_around(face)
            if not part.empty:
                courses = 1 - 0.08 * smoothstep(0.75, 0.95, (part.y / size * 26) % 1)[:, None]
                part.lay(part.within(face), column(colour) * courses)

    return layer


def cat(mood: Mood, foot: Point, size: float, way: float, fur: Colour) -> Layer:
    """A cat that sits and looks at the view, seen from behind."""
    x, y = foot
    colour, rim = mood.seen(fur), mix(mood.seen(lighter(fur, 1.6)), mood.glow, 0.45)

    def layer(canvas: Canvas) -> None:
        head = y - size * 0.76
        tail = [
            (
                x + way * size * (0.22 + 0.32 * math.sin(t * 2.2)),
                y - size * (0.06 + 0.1 * t * t) + size * 0.05,
            )
            for t in np.linspace(0, 1.25, 9).tolist()
        ]
        for start, end in pairwise(tail):
            canvas.stroke(start, end, (size * 0.042,) * 2, colour)
        for edge, paint in ((0.014, rim), (0.0, colour)):
            grow = edge * size
            for aside in (-1.0, 1.0):
                ear = [
                    (x + aside * size * 0.17, head - size * 0.06),
                    (x + aside * size * 0.145, head - size * 0.27 - grow),
                    (x + aside * size * 0.02, head - size * 0.13),
                ]
                canvas.convex(_clockwise(ear), paint)
            canvas.stroke((x, y - size * 0.2), (x, y - size * 0.56), (size * 0.235 + grow, size * 0.13 + grow), paint)
            _ellipse(canvas, (x, head), size * 0.165 + grow, 1.12, paint)
        canvas.stroke(
            (x - size * 0.14, y - size * 0.02), (x + size * 0.14, y - size * 0.02), (size * 0.06,) * 2, colour
        )

    return layer


def _ellipse(canvas: Canvas, middle: Point, radius: float, flat: float, colour: Colour) -> None:
    x, y = middle
    part = canvas.cut(x - radius * flat, x + radius * flat, y - radius, y + radius)
    if not part.empty:
        part.lay(part.soft(radius - part.distance(x, y, flat)), colour)


def flower(draw: np.random.Generator, mood: Mood, foot: Point, size: float, petal: Colour) -> Layer:
    """One large flower on its stem, with two leaves."""
    x, y = foot
    middle = (x + float(draw.uniform(-0.06, 0.06)) * size, y - size * 0.72)
    count, spin = int(draw.integers(6, 13)), float(draw.uniform(0, 6))
    green, heart = mood.seen(from_hex("3f7a38")), mood.seen(from_hex("e2a92f"))
    noise = Noise(draw)

    def layer(canvas: Canvas) -> None:
        canvas.stroke((x, y + size * 0.1), middle, (size * 0.02, size * 0.014), green)
        for aside in (-1.0, 1.0):
            blade = [
                (0, 0.1),
                (0.05, 0.24),
                (0.13, 0.33),
                (0.22, 0.38),
                (0.33, 0.4),
                (0.29, 0.29),
                (0.21, 0.19),
                (0.11, 0.12),
            ]
            canvas.convex(
                _clockwise([(x + aside * size * a, y - size * b) for a, b in blade]),
                lighter(green, 0.9 + 0.2 * aside),
            )
            canvas.stroke(
                (x, y - size * 0.1),
                (x + aside * size * 0.31, y - size * 0.385),
                (size * 0.006, 0.001),
                lighter(green, 0.7),
            )
        for reach, shade, shift in ((0.31, 0.72, 0.5), (0.28, 0.92, 0.0), (0.2, 1.12, 0.5)):
            _petals(
                canvas,
                middle,
                reach * size,
                (count, spin + shift * 2 * math.pi / count),
                mood.seen(lighter(petal, shade)),
            )
        part = canvas.cut(
            middle[0] - size * 0.1, middle[0] + size * 0.1, middle[1] - size * 0.1, middle[1] + size * 0.1
        )
        if not part.empty:
            gap = part.distance(*middle)
            seeds = 0.65 + 0.7 * noise.grid(part.x / size * 95, part.y / size * 95, 2)
            part.lay(part.soft(size * 0.085 - gap), column(heart) * (seeds * (1.15 - 4 * gap / size)))

    return layer


def _petals(canvas: Canvas, middle: Point, reach: float, turns: tuple[int, float], colour: Colour) -> None:
    (x, y), (count, spin) = middle, turns
    part = canvas.cut(x - reach, x + reach, y - reach, y + reach)
    if part.empty:
        return
    gap = part.distance(x, y)
    angle = np.arctan2((part.y - y)[:, None] + 0 * part.x, part.x - x) * (count / 2) + spin * count / 2
    round_end = np.abs(np.cos(angle)) ** 0.65
    light = 0.62 + 0.5 * gap / reach + 0.16 * np.abs(np.cos(angle)) ** 6 - 0.12 * ((part.y - y) / reach)[:, None]
    part.lay(part.soft(reach * (0.25 + 0.75 * round_end) - gap), column(colour) * light)


def bird(mood: Mood, x: float, y: float, size: float, lift: float) -> Layer:
    """A bird far away: two wings."""
    colour = mix(mood.seen(from_hex("23242c")), mood.haze, 0.12)

    def layer(canvas: Canvas) -> None:
        for aside in (-1.0, 1.0):
            tip = (x + aside * size, y - size * lift * 0.3)
            joint = (x + aside * size * 0.45, y - size * lift)
            canvas.stroke((x, y), joint, (size * 0.09, size * 0.07), colour)
            canvas.stroke(joint, tip, (size * 0.07, size * 0.015), colour)

    return layer
