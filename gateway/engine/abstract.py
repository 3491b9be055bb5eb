"""Pictures of words that the painter does not know: flows of colour, always the same for the same words and seed."""

import colorsys

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.colour import Colour, Ramp, lighter, mix
from gateway.engine.interface import Plane
from gateway.engine.noise import Noise, smoothstep
from gateway.engine.words import Reading


def palette(reading: Reading, draw: np.random.Generator) -> list[Colour]:
    """Return five colours from dark to light: those that were said, or two families of hue."""
    hue, other = float(draw.random()), float(draw.choice([0.08, 0.33, 0.45, 0.55]))
    levels = (0.1, 0.28, 0.48, 0.68, 0.88)
    made = [
        colorsys.hls_to_rgb((hue + other * (place % 2) + 0.02 * place) % 1, level, 0.45 + 0.3 * float(draw.random()))
        for place, level in enumerate(levels)
    ]
    if not reading.colours:
        return made
    said = [reading.colours[place % len(reading.colours)] for place in range(5)]
    shares = (0.1, 0.75, 0.1, 0.55, 0.35)
    return [
        mix(lighter(colour, 0.35 + 0.28 * place), mine, share)
        for place, (colour, mine, share) in enumerate(zip(said, made, shares, strict=True))
    ]


def flow(draw: np.random.Generator, colours: list[Colour]) -> Layer:
    """Marbled streams of colour with fine lines along them."""
    bend, body, light = Noise(draw), Noise(draw), Noise(draw)
    zoom, push = float(draw.uniform(0.9, 1.8)), float(draw.uniform(1.2, 2.6))
    lines = float(draw.uniform(16, 34))
    ramp = Ramp(*zip((0.0, 0.3, 0.5, 0.68, 1.0), colours, strict=True))

    def layer(canvas: Canvas) -> None:
        x, y = canvas.x * zoom, canvas.y * zoom
        first = bend.grid(x, y, 3)
        second = bend.grid(x + 23, y + 11, 3)
        across: Plane = np.add(x, push * first, dtype=np.float32)
        down: Plane = np.add(y[:, None], push * second, dtype=np.float32)
        stream = body.at(across, down, 4)
        paint = ramp(smoothstep(0.27, 0.73, stream))
        thread = np.sin(stream * lines * 2 * np.pi)
        gloss = light.at(across * 1.6 + 3, down * 1.6, 3) - 0.5
        canvas.paint[...] = paint * (1 + 0.1 * thread + 0.9 * gloss * (0.3 + stream))
        canvas.shine(0.5 * smoothstep(0.6, 0.75, stream) * np.clip(gloss * 3, 0, 1), (1.0, 0.97, 0.9))

    return layer


def orbs(draw: np.random.Generator, colours: list[Colour], aspect: float) -> Layer:
    """A few translucent spheres."""
    count = int(draw.integers(2, 6))
    spheres = [
        (
            float(draw.uniform(-0.5, 0.5)) * aspect,
            float(draw.random()),
            float(draw.uniform(0.03, 0.17)),
            int(draw.integers(1, 5)),
        )
        for _ in range(count)
    ]

    def layer(canvas: Canvas) -> None:
        for x, y, radius, tone in spheres:
            part = canvas.cut(x - radius, x + radius, y - radius, y + radius)
            if part.empty:
                continue
            gap = part.distance(x, y) / radius
            shade = np.clip(1.15 - 0.75 * part.distance(x - radius * 0.35, y - radius * 0.4) / radius, 0.15, 1.2)
            paint = np.array(colours[tone], np.float32)[:, None, None] * (0.35 + shade)
            part.lay(part.soft((1 - gap) * radius) * (0.72 + 0.28 * np.clip(gap, 0, 1) ** 3), paint)
            part.shine(
                0.8 * np.exp(-((part.distance(x - radius * 0.36, y - radius * 0.42) / (radius * 0.2)) ** 2)),
                (1, 1, 1),
            )

    return layer
