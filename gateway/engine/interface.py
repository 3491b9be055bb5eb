"""What is painted and what paints: the seam at which a real model will take the procedural painter's place."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""A picture: RGB of shape (height, width, 3), or a mask of shape (height, width); 0..255."""
Plane = NDArray[np.float32]
"""Numbers per pixel, of shape (height, width) or (3, height, width)."""
Latent = NDArray[np.float32]
"""The state between two steps, of shape (3, height, width), at most 128 on the long edge; pictures lie in -1..1."""


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """One picture to paint; two paintings are the same only if they are the same object.

    Raises `ValueError` if the arrays do not have the asked size, or the numbers are out of range.
    """

    prompt: str
    seed: int
    width: int
    """Pixels, 64 to 2048 and a multiple of 8, as `height`."""
    height: int
    steps: int = 20
    """1 to 150."""
    strength: float = 1.0
    """0 keeps the init image, 1 ignores it; of no effect without one."""
    init: Pixels | None = None
    """RGB of shape (height, width, 3)."""
    mask: Pixels | None = None
    """Of shape (height, width): 255 is repainted, 0 keeps the init's bytes; needs `init`."""

    def __post_init__(self) -> None:
        if not all(64 <= edge <= 2048 and edge % 8 == 0 for edge in (self.width, self.height)):
            raise ValueError("edges are 64 to 2048 and multiples of 8")
        if not 1 <= self.steps <= 150 or not 0 <= self.strength <= 1 or self.seed < 0:
            raise ValueError("steps are 1 to 150, strength is 0 to 1, the seed is not negative")
        if self.init is not None and self.init.shape != (self.height, self.width, 3):
            raise ValueError("the init image has another size")
        if self.mask is not None and (self.init is None or self.mask.shape != (self.height, self.width)):
            raise ValueError("the mask has another size, or there is no init image")


class Denoiser(Protocol):
    """Goes from noise to a picture in `painting.steps` steps; what it returns depends on the painting alone."""

    def begin(self, painting: Painting) -> Latent:
        """Return the latent before step 1: noise, or the init image under noise."""

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        """Return the latent after `step` (1 to `painting.steps`) and its preview, RGB of the latent's edges."""

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        """Return the picture in its asked size, from the latent after the last step."""
