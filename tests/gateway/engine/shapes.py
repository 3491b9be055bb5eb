"""A sketcher that knows four shapes, and what the engine's tests ask of pictures."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gateway.engine.denoise.closed_form import ClosedForm
from gateway.engine.interface import Denoiser, Field, Painting, Pixels, Plane, Scene, Sheet, Sketches, Wish
from gateway.engine.paint.painter import Painter

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.3, 0.9), "grey": (0.5, 0.5, 0.5)}
SHAPES = ("disc", "square", "ring", "cross")
GROUNDS = {"night": (0.1, 0.1, 0.3), "sand": (0.9, 0.8, 0.5)}


class Shapes:
    """Places every shape that the prompt names where the wish says; `wishes` are those it was asked."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []

    def sketch(self, wish: Wish) -> Sketches:
        self.wishes.append(wish)
        words = wish.prompt.split()
        names = [name for name in SHAPES if name in words] or list(SHAPES)
        colour = next((COLOURS[word] for word in words if word in COLOURS), COLOURS["red"])
        if wish.reference is not None:
            red, green, blue = (float(level) / 255 for level in wish.reference[..., :3].mean(axis=(0, 1)))
            colour = (red, green, blue)
        sheets = np.stack([placed(name, colour, wish) for name in names])
        disliked = wish.negative_prompt.split()
        logits = np.array([-wish.guidance if name in disliked else 0 for name in names], np.float32)
        ground = next((GROUNDS[word] for word in words if word in GROUNDS), None)
        return Sketches(sheets, logits, ground=ground, names=tuple((name,) for name in names))


def placed(name: str, colour: tuple[float, float, float], wish: Wish) -> Sheet:
    """Draw a shape into the wish's box, smoothed at its outline."""
    top, left, bottom, right = wish.box or (0, 0, wish.height, wish.width)
    radius = 0.45 * min(bottom - top, right - left)
    rows = np.arange(wish.height, dtype=np.float32)[:, None] - ((top + bottom - 1) / 2)
    columns = np.arange(wish.width, dtype=np.float32) - ((left + right - 1) / 2)
    far = np.hypot(rows, columns)
    across = np.maximum(abs(rows), abs(columns))
    depth = {
        "disc": radius - far,
        "square": 0.8 * radius - across,
        "ring": np.minimum(radius - far, far - 0.5 * radius),
        "cross": np.minimum(radius - across, 0.3 * radius - np.minimum(abs(rows), abs(columns))),
    }[name]
    alpha = np.clip(depth + 0.5, 0, 1).astype(np.float32)
    return np.concatenate([np.array(colour, np.float32)[:, None, None] * alpha, alpha[None]])


class Knowing:
    """A perfect guesser: it knows the clean picture whatever it is shown. `times` are those it was asked at."""

    name: Literal["network", "closed_form"] = "closed_form"

    def __init__(self, clean: Field) -> None:
        self.clean = clean
        self.times: list[float] = []

    def guess(self, noisy: Field, time: float, scene: Scene) -> Field:
        self.times.append(time)
        return self.clean


@dataclass(frozen=True)
class Painted:
    picture: Pixels
    previews: list[Pixels]

    @property
    def sha(self) -> str:
        return hashlib.sha256(self.picture.tobytes()).hexdigest()


def paint(prompt: str = "red disc", *, denoiser: Denoiser | None = None, **changes: Any) -> Painted:
    """Paint as the child process does; keep all that it would send."""
    asked: dict[str, Any] = {"seed": 7, "width": 128, "height": 128, "steps": 6} | changes
    painting = Painting(prompt, **asked)
    painter = denoiser or Painter(Shapes(), ClosedForm())
    latent = painter.begin(painting)
    previews = []
    for step in range(1, painting.steps + 1):
        latent, preview = painter.step(painting, latent, step)
        previews.append(preview)
    return Painted(painter.finish(painting, latent), previews)


def blue_square(width: int = 128, height: int = 128, texture: int = 12) -> Pixels:
    """A blue square on sand, with a grain that no small canvas can hold."""
    picture = np.full((height, width, 3), (230, 204, 128), np.int16)
    rows, columns = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    picture[rows, columns] = (20, 60, 220)
    grain = np.random.default_rng(3).integers(-texture, texture + 1, picture.shape)
    grainy: NDArray[np.int64] = np.clip(picture + grain, 0, 255)
    return grainy.astype(np.uint8)


def right_half(width: int = 128, height: int = 128) -> Pixels:
    """Keep the left half, repaint the right one."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def distance(one: Pixels | Plane, other: Pixels | Plane) -> float:
    """Return the mean difference of two pictures."""
    return float(np.abs(one.astype(np.float64) - other).mean())
