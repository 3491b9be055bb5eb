"""What lies between the picture and the eye: fog, rain, snow, lightning, and the finish of the whole."""

from itertools import pairwise

import numpy as np

from gateway.engine.canvas import Canvas, Layer
from gateway.engine.colour import Colour, column, from_hex, mix
from gateway.engine.mood import Mood
from gateway.engine.noise import Noise, smoothstep


def fog(draw: np.random.Generator, mood: Mood, horizon: float) -> Layer:
    """Banks of fog, thickest around the horizon."""
    noise = Noise(draw)

    def layer(canvas: Canvas) -> None:
        banks = smoothstep(0.25, 0.7, noise.grid(canvas.x * 1.4, canvas.y * 5, 4))
        thick = np.exp(-(((canvas.y - horizon - 0.04) / 0.24) ** 2))[:, None]
        canvas.lay(np.clip(0.16 + thick * (0.35 + 0.55 * banks), 0, 0.92), mood.haze)

    return layer


def snowfall(draw: np.random.Generator, mood: Mood, aspect: float, count: int = 340) -> Layer:
    """Falling flakes, some near and soft."""
    places = draw.random((count, 2)).tolist()
    sizes = (0.0016 + 0.0075 * draw.random(count) ** 4).tolist()
    white = mix(mood.seen((1.0, 1.0, 1.0)), (1.0, 1.0, 1.0), 0.6)

    def layer(canvas: Canvas) -> None:
        for (across, y), size in zip(places, sizes, strict=True):
            x = (across - 0.5) * aspect
            part = canvas.cut(x - size * 1.5, x + size * 1.5, y - size * 1.5, y + size * 1.5)
            if not part.empty:
                cover = smoothstep(1.4, 0.4, part.distance(x, y) / max(size, part.pixel * 0.7))
                part.lay(cover * min(0.9, 0.5 + 0.003 / size) * min(1.0, size / part.pixel), white)

    return layer


def rain(draw: np.random.Generator, mood: Mood, aspect: float, count: int = 420) -> Layer:
    """Slanting streaks."""
    drops = draw.random((count, 3)).tolist()
    colour = mood.seen((0.9, 0.95, 1.0), 0.45)

    def layer(canvas: Canvas) -> None:
        for across, y, size in drops:
            x, length = (across * 1.2 - 0.6) * aspect, 0.02 + 0.045 * size
            part = canvas.cut(x - length * 0.3, x, y, y + length)
            if not part.empty:
                gap = np.abs(part.x - x + (part.y - y)[:, None] * 0.22) / max(0.0013, part.pixel * 0.6)
                inside = (part.y >= y) & (part.y <= y + length)
                part.lay(np.exp(-gap * gap) * inside[:, None] * (0.14 + 0.26 * size), colour)

    return layer


def lightning(draw: np.random.Generator, x: float, foot: float) -> Layer:
    """A forked bolt from the clouds to the ground."""
    rows = np.linspace(0.02, foot, 26)
    path = x + np.cumsum(draw.uniform(-0.03, 0.03, 26))
    fork = int(draw.integers(8, 15))
    branch = path[fork] + np.cumsum(draw.uniform(0.0, 0.04, 9))
    bolts = [(list(zip(path.tolist(), rows.tolist(), strict=True)), 0.0035)]
    bolts.append((list(zip(branch.tolist(), rows[fork : fork + 9].tolist(), strict=True)), 0.002))

    def layer(canvas: Canvas) -> None:
        near = np.abs(canvas.x - np.interp(canvas.y, rows, path).astype(np.float32)[:, None])
        reach = smoothstep(foot + 0.1, foot - 0.1, canvas.y)[:, None]
        canvas.shine(0.55 * np.exp(-near / 0.07) * reach, from_hex("c9d4ff"))
        for points, width in bolts:
            for start, end in pairwise(points):
                canvas.stroke(start, end, (width, width), (0.98, 0.98, 1.0))

    return layer


def grade(saturation: float, contrast: float, tint: Colour, gain: float) -> Layer:
    """Change the whole picture's colour."""

    def layer(canvas: Canvas) -> None:
        red, green, blue = canvas.paint
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        paint = grey + saturation * (canvas.paint - grey)
        canvas.paint[...] = ((paint - 0.5) * contrast + 0.5) * gain * column(tint)

    return layer


def brushwork(draw: np.random.Generator, aspect: float) -> Layer:
    """The finish: strokes of a brush, the weave of the canvas, and slightly darker corners."""
    strokes, weave = Noise(draw), Noise(draw)

    def layer(canvas: Canvas) -> None:
        x, y = canvas.x, canvas.y
        bristles = strokes.grid(x * 11, y * 58, 3) - 0.5
        threads = weave.grid(x * 210, y * 210, 1) - 0.5
        corner = (x * (1.1 / max(1.0, aspect))) ** 2 + ((y - 0.5) ** 2)[:, None]
        canvas.paint[...] *= 1 + 0.1 * bristles + 0.035 * threads - 0.42 * corner
        canvas.paint[...] += 0.02 * bristles

    return layer
