"""What is painted and what paints: words -> sketches (`Sketcher`) -> scene -> clean guesses (`Guesser`) -> pixels.

Everything between is an RGBA picture with premultiplied colours: a `Sheet` holds it as 0..1, a `Field` as -1..1, the
range that noise is added in. A figure that is diffused with its alpha can be laid on any ground, or on none.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gateway.engine.wire import Look

Pixels = NDArray[np.uint8]
"""A picture: RGB of shape (height, width, 3), RGBA of (height, width, 4) with straight alpha, or a plane of shape
(height, width); 0..255."""
Plane = NDArray[np.float32]
"""Numbers per pixel, of shape (height, width), (channels, height, width) or (n, channels, height, width)."""
Sheet = NDArray[np.float32]
"""Premultiplied RGBA of shape (..., 4, height, width) in 0..1."""
Field = NDArray[np.float32]
"""Premultiplied RGBA of shape (4, height, width) in -1..1 (noise goes beyond): `2 * sheet - 1`."""
Colour = tuple[float, float, float]
"""RGB in 0..1."""

OWN_EDGE = 64
"""Pixels: the edge of a square picture as the models draw it, before it is enlarged."""


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
    guidance: float = 7.0
    """0 to 30: how far the words, or what was found for them, are followed; 1 adds nothing, 0 ignores them."""
    negative_prompt: str = ""
    strength: float = 1.0
    """0 keeps the init image, 1 ignores it; of no effect without one."""
    init: Pixels | None = None
    """RGB of shape (height, width, 3)."""
    mask: Pixels | None = None
    """Of shape (height, width): 255 is repainted, 0 keeps the init's bytes; needs `init`."""
    edges: Pixels | None = None
    """Lines to follow, of shape (height, width): 255 is a line."""
    edge_weight: float = 1.0
    """0 to 2: how much the lines count."""
    reference: Pixels | None = None
    """RGBA of any size: what the figure shall look like, in place of what the words find."""
    tiling: bool = False
    """Whether the picture goes on at its opposite edge."""
    look: Look = "drawn"
    transparent: bool = False
    """Whether only the figure is painted: then the finished picture is RGBA."""

    def __post_init__(self) -> None:
        if not all(64 <= edge <= 2048 and edge % 8 == 0 for edge in (self.width, self.height)):
            raise ValueError("edges are 64 to 2048 and multiples of 8")
        if not 1 <= self.steps <= 150 or not 0 <= self.strength <= 1 or self.seed < 0:
            raise ValueError("steps are 1 to 150, strength is 0 to 1, the seed is not negative")
        if not 0 <= self.guidance <= 30 or not 0 <= self.edge_weight <= 2:
            raise ValueError("guidance is 0 to 30, an edge weight 0 to 2")
        if self.init is not None and self.init.shape != (self.height, self.width, 3):
            raise ValueError("the init image has another size")
        if self.mask is not None and (self.init is None or self.mask.shape != (self.height, self.width)):
            raise ValueError("the mask has another size, or there is no init image")
        if self.edges is not None and self.edges.shape != (self.height, self.width):
            raise ValueError("the edges have another size")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a `Sketcher` is asked for."""

    prompt: str
    seed: int
    height: int
    """Pixels of the sheets, multiples of 16, as `width`."""
    width: int
    negative_prompt: str = ""
    guidance: float = 7.0
    box: tuple[int, int, int, int] | None = None
    """Top, left, bottom, right in pixels: where the figure belongs, as a mask's hole, the place of the init image's own
    figure, or what will be seen of the sheet; None = the whole sheet."""
    tiling: bool = False
    reference: Pixels | None = None
    """RGBA: the figure to use in place of what the prompt's words find; its words still give colours and counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketches:
    """What the words may mean: figures placed on sheets of the asked size, most likely first."""

    sheets: Sheet
    """(k, 4, height, width), k >= 1."""
    logits: NDArray[np.float32]
    """(k,): how much each is meant, guidance and negative prompt counted in; only differences mean something."""
    against: Sheet | None = None
    """(4, height, width): what the negative prompt shows, if it names a thing."""
    ground: Colour | None = None
    """The background that the prompt names, None = none."""
    names: tuple[tuple[str, ...], ...] = ()
    """Of each sheet, the icons on it."""


class Sketcher(Protocol):
    """Finds and places what the words name; depends on the wish alone."""

    def sketch(self, wish: Wish) -> Sketches:
        """Return the sketches, by the seed's choice of figure, side and place."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """All that a guess depends on beside the noisy field and the time, in the model's own size (multiples of 16)."""

    sketches: Sketches
    chosen: int
    """Which of the sketches the seed chose, for a guesser that follows one."""
    guidance: float
    """0 is a guess without the sketches, 1 the one with them; more goes as far beyond."""
    whole: bool
    """Whether the picture fills the frame (alpha is 1 everywhere), as an init image does, or is a figure alone."""
    known: Sheet | None = None
    """(4, height, width): the init image, of which `keep` tells what stays."""
    strength: float = 1.0
    """0..1: how far the picture may go from `known` where it does not stay."""
    keep: Plane | None = None
    """(height, width), 0..1: 1 where `known` stays as it is."""
    edges: Plane | None = None
    """(height, width), 0..1, already multiplied by its weight (at most 1)."""
    tiling: bool = False


class Guesser(Protocol):
    """A denoiser proper: the network, or the closed form."""

    name: Literal["network", "closed_form"]

    def guess(self, noisy: Field, time: float, scene: Scene) -> Field:
        """Return the clean picture that is believed to be under the noise, guidance applied, clipped to -1..1.

        `noisy` is `cos(pi / 2 * time) * clean + sin(pi / 2 * time) * noise`, `time` in 0..1 (1 is noise alone).
        """


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """The state between two steps."""

    noisy: Field
    guess: Field | None = None
    """The last guess, which a multistep sampler extrapolates from."""


class Denoiser(Protocol):
    """Goes from noise to a picture in `painting.steps` steps; what it returns depends on the painting alone."""

    def begin(self, painting: Painting) -> Latent:
        """Return the latent before step 1: noise, or the init image under noise."""

    def step(self, painting: Painting, latent: Latent, step: int) -> tuple[Latent, Pixels]:
        """Return the latent after `step` (1 to `painting.steps`) and its preview, RGB of the latent's edges."""

    def finish(self, painting: Painting, latent: Latent) -> Pixels:
        """Return the picture in its asked size, RGB or RGBA, from the latent after the last step."""
