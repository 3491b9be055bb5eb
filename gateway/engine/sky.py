"""The sky and what stands in it."""

from functools import partial

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.colour import Colour, from_hex, lighter, mix
from gateway.engine.interface import Plane
from gateway.engine.mood import Mood
from gateway.engine.noise import Noise, smoothstep


def gradient(draw: np.random.Generator, mood: Mood, horizon: float) -> Layer:
    """The sky itself, from the top of the picture to the horizon, in slow swells of colour."""
    noise = Noise(draw)

    def layer(canvas: Canvas) -> None:
        swell = (noise.grid(canvas.x * 1.3, canvas.y * 3.1, 4) - 0.5) * 0.2
        canvas.paint[...] = mood.sky(np.clip(canvas.y[:, None] / horizon + swell, 0, 1))

    return layer


def stars(draw: np.random.Generator, horizon: float, aspect: float, count: int = 260) -> Layer:
    """Stars of all sizes above the horizon, some with a halo."""
    places = draw.random((count, 2)).tolist()
    sizes = (0.0011 + 0.0024 * draw.random(count) ** 5).tolist()
    tints = draw.random(count).tolist()
    warm, cold = from_hex("ffe9c4"), from_hex("cfe0ff")

    def layer(canvas: Canvas) -> None:
        for (across, down), size, tint in zip(places, sizes, tints, strict=True):
            x, y = (across - 0.5) * aspect, down * horizon
            part = canvas.cut(x - size * 6, x + size * 6, y - size * 6, y + size * 6)
            if not part.empty:
                radius = max(size, part.pixel * 0.5)
                bright = (size / radius) ** 1.2 * (1 - 0.75 * (y / horizon) ** 3)
                gap = part.distance(x, y) / radius
                part.shine(bright * (np.exp(-gap * gap) + 0.12 * np.exp(-0.5 * gap)), mix(warm, cold, tint))

    return layer


def sun(mood: Mood, x: float, y: float, radius: float, horizon: float) -> Layer:
    """The sun with its glow; the horizon hides what is below."""

    def layer(canvas: Canvas) -> None:
        gap = canvas.distance(x, y)
        wide = canvas.distance(x, y, flat=1.9)
        canvas.shine(0.75 * np.exp(-gap / (radius * 1.5)), mood.glow)
        canvas.shine(0.55 * np.exp(-wide / (radius * 4.5)), mix(mood.glow, mood.sky.stops[-2][1], 0.4))
        above = canvas.cut(x - radius, x + radius, y - radius, min(y + radius, horizon))
        if not above.empty:
            disc = lighter(mix(mood.glow, (1.0, 1.0, 0.94), 0.6), 1.12)
            above.lay(above.soft(radius - above.distance(x, y)), disc)

    return layer


def moon(draw: np.random.Generator, mood: Mood, x: float, y: float, radius: float) -> Layer:
    """The moon, full or a crescent, with its seas."""
    noise = Noise(draw)
    crescent = float(draw.choice([0.0, 0.0, 0.55, 0.8]))

    def layer(canvas: Canvas) -> None:
        gap = canvas.distance(x, y)
        canvas.shine(0.5 * np.exp(-gap / (radius * 1.7)), mood.glow)
        part = canvas.cut(x - radius, x + radius, y - radius, y + radius)
        if part.empty:
            return
        cover = part.soft(radius - part.distance(x, y))
        if crescent:
            cover = cover * (1 - part.soft(radius - part.distance(x - radius * crescent, y - radius * 0.2)))
        seas = smoothstep(0.42, 0.62, noise.grid(part.x / radius * 1.6, part.y / radius * 1.6, 4))
        face = np.stack([1.0 - 0.2 * seas, 0.98 - 0.19 * seas, 0.9 - 0.13 * seas])
        part.lay(cover, face)

    return layer


def clouds(draw: np.random.Generator, mood: Mood, horizon: float, amount: float) -> Layer:
    """Clouds, `amount` 0..1, lit from below at dusk and from above by day, flatter towards the horizon."""
    shape, light = Noise(draw), Noise(draw)
    drift = float(draw.uniform(0, 60))
    edge = 0.66 - 0.3 * amount

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(bottom=horizon)
        if part.empty:
            return
        height = np.clip(part.y / horizon, 0, 1)
        # Clouds are a ceiling: the nearer to the horizon, the flatter and closer they lie.
        rows = 2.2 / (1.16 - height) + drift
        spread = (0.9 + 1.5 * height)[:, None]
        across = part.x * spread * 1.9 + drift
        body = shape.at(across, rows[:, None] + 0 * part.x, 5)
        lower = shape.at(across, rows[:, None] + 0.22 + 0 * part.x, 3)
        cover = smoothstep(edge, edge + 0.17, body) * (1 - 0.55 * height**4)[:, None]
        lit = np.clip(0.5 + 3.2 * (body - lower) * (1 if mood.dark < 0.5 else -1), 0, 1)
        lit = np.clip(lit + 0.5 * (light.grid(part.x * 3, part.y * 7, 3) - 0.5), 0, 1)
        bright = _pale(mood)
        canvas_colour = np.stack([c + lit * (b - c) for c, b in zip(mood.cloud, bright, strict=True)])
        part.lay(cover * 0.93, canvas_colour)

    return layer


def _pale(mood: Mood) -> Colour:
    if mood.dark > 0.9:
        return mix(mood.cloud, mood.glow, 0.35)
    if mood.dark > 0.65:
        return from_hex("ff9f78")
    return mix(mood.glow, mood.haze, 0.1 if mood.dark < 0.5 else 0.8)


def aurora(draw: np.random.Generator, horizon: float) -> Layer:
    """Curtains of green and violet light."""
    wave, folds = Noise(draw), Noise(draw)
    curtains = [(float(draw.uniform(0.3, 0.75)), float(draw.uniform(0, 50))) for _ in range(3)]
    low, high = from_hex("4dffb0"), from_hex("9a5cff")

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(bottom=horizon)
        if part.empty:
            return
        for foot, shift in curtains:
            edge = horizon * foot + 0.35 * (wave.line(part.x * 1.6 + shift, 3) - 0.5)
            rise = edge - part.y[:, None]
            folded = 0.35 + smoothstep(0.3, 0.75, folds.line(part.x * 14 + shift, 3) * np.ones_like(rise))
            fade = np.exp(-np.clip(rise, 0, 9) / 0.16) * smoothstep(-0.025, 0.02, rise)
            part.shine(0.62 * fade * folded, low)
            upper = np.exp(-(((rise - 0.2) / 0.13) ** 2))
            part.shine(0.3 * upper * folded, high)

    return layer


def rainbow(x: float, horizon: float, radius: float) -> Layer:
    """A rainbow that stands on the horizon."""
    bands = [from_hex(digits) for digits in ("8a4fd0", "3f6fe0", "35b8d8", "5fc95a", "f2e04a", "f59a35", "e8483c")]

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(bottom=horizon)
        if part.empty:
            return
        gap = part.distance(x, horizon + 0.05)
        for number, band in enumerate(bands):
            middle = radius + number * 0.014
            part.lay(0.34 * np.exp(-(((gap - middle) / 0.0095) ** 2)), band)

    return layer


def planet(draw: np.random.Generator, x: float, y: float, radius: float, colour: Colour) -> Layer:
    """A banded planet, half in shadow, with a ring."""
    noise = Noise(draw)
    tilt = float(draw.uniform(-0.5, 0.5))
    other = mix(colour, from_hex("fff0d8"), 0.6)

    def layer(canvas: Canvas) -> None:
        part = canvas.cut(x - radius * 2.4, x + radius * 2.4, y - radius * 2.4, y + radius * 2.4)
        if part.empty:
            return
        ring = partial(_ring, part, x, y, radius, tilt, mix(other, colour, 0.3))
        ring(behind=True)
        across, down = (part.x - x) / radius, ((part.y - y) / radius)[:, None]
        turned = down * np.cos(tilt) - across * np.sin(tilt)
        bands = smoothstep(0.3, 0.7, noise.at(turned * 4.5 + 9, 0.4 * across + turned * 0.2, 4))
        light = np.clip(0.25 + 0.95 * (-0.62 * across - 0.45 * down + 0.3), 0.05, 1.1)
        paint: Plane = np.stack([(c + bands * (o - c)) * light for c, o in zip(colour, other, strict=True)])
        part.lay(part.soft(radius - part.distance(x, y)), paint)
        ring(behind=False)

    return layer


def _ring(part: Canvas, x: float, y: float, radius: float, tilt: float, colour: Colour, *, behind: bool) -> None:
    across, down = part.x - x, (part.y - y)[:, None]
    along = across * np.cos(tilt) + down * np.sin(tilt)
    over = down * np.cos(tilt) - across * np.sin(tilt)
    gap = np.hypot(along, over * 4.2) / radius
    cover: Plane = smoothstep(1.3, 1.36, gap) * smoothstep(2.15, 2.05, gap) * (0.55 + 0.3 * np.sin(gap * 34))
    part.lay(cover * ((over < 0) if behind else (over >= 0)) * 0.85, colour)


def nebula(draw: np.random.Generator, colours: tuple[Colour, Colour]) -> Layer:
    """Glowing gas with dark lanes in it."""
    gas, bend, dust = Noise(draw), Noise(draw), Noise(draw)

    def layer(canvas: Canvas) -> None:
        x, y = canvas.x * 1.5, canvas.y * 1.5
        push = bend.grid(x, y, 3) * 1.6
        body = gas.at(x + push, y[:, None] + push, 5)
        lanes = smoothstep(0.42, 0.62, dust.at(x * 1.7 - push, y[:, None] * 1.7 + push, 5))
        canvas.shine(smoothstep(0.34, 0.72, body) * 1.1 * (1 - 0.6 * lanes), colours[0])
        canvas.shine(smoothstep(0.4, 0.72, gas.at(x + push + 7, y[:, None] + 5, 4)), colours[1])
        canvas.shine(smoothstep(0.54, 0.74, body) * 0.6 * (1 - lanes), lighter((1.0, 0.92, 0.85), 1.0))

    return layer
