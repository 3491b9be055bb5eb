"""OpenAI Images: which models there are, which sizes they make and what else they can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Size = tuple[int, int]

STANDARD_SIZES: tuple[Size, ...] = ((1024, 1024), (1536, 1024), (1024, 1536))
DALL_E_2_SIZES: tuple[Size, ...] = ((256, 256), (512, 512), (1024, 1024))
DALL_E_3_SIZES: tuple[Size, ...] = ((1024, 1024), (1792, 1024), (1024, 1792))

FREE_SIZE_STEP = 16
FREE_SIZE_LONGEST_EDGE = 3840
FREE_SIZE_STRETCH = 3
FREE_SIZE_LEAST_PIXELS = 655_360
FREE_SIZE_MOST_PIXELS = 8_294_400
ANY_SIZE_LONGEST_EDGE = 4096


@dataclass(frozen=True, slots=True)
class Model:
    """One model and the rules its requests obey."""

    id: str
    family: Literal["gpt", "dall-e-2", "dall-e-3", "local"] = "gpt"
    sizes: tuple[Size, ...] = STANDARD_SIZES
    """Empty when sizes are free."""
    transparent: bool = True
    """Whether it makes transparent backgrounds."""
    more_qualities: bool = False
    """Whether it knows `xhigh` and `max` too."""
    fidelities: frozenset[str] = frozenset({"high", "low"})
    """Words of `input_fidelity`; with an empty set the field must be left out."""
    retired: str | None = None
    """The day on which the vendor shut it down."""

    @property
    def prompt_limit(self) -> int:
        """Characters a prompt may have."""
        return {"gpt": 32_000, "dall-e-2": 1000, "dall-e-3": 4000, "local": 1_000_000}[self.family]

    @property
    def most_images(self) -> int:
        """Pictures one request may ask for."""
        return 1 if self.family == "dall-e-3" else 10

    @property
    def qualities(self) -> frozenset[str]:
        """Words of `quality`."""
        if self.family != "gpt":
            return frozenset({"standard", "hd"} if self.family == "dall-e-3" else {"standard"})
        return frozenset({"auto", "low", "medium", "high"} | ({"xhigh", "max"} if self.more_qualities else set()))

    def size_fault(self, size: Size) -> str | None:
        """What is wrong with a size; None if the model makes it."""
        if self.sizes:
            return None if size in self.sizes else f"Supported values are: {', '.join(map(as_text, self.sizes))}."
        if self.family == "local":
            return None if max(size) <= ANY_SIZE_LONGEST_EDGE else "The size is too large."
        return _free_size_fault(size)

    def nearest(self, size: Size) -> Size:
        """The size of a picture whose size is left to the model: the upload's own, or the nearest in shape."""
        if not self.sizes and self.size_fault(size) is None:
            return size
        shape = size[0] / size[1]
        return min(self.sizes or STANDARD_SIZES, key=lambda own: abs(own[0] / own[1] - shape))


def as_text(size: Size) -> str:
    """The size as requests write it."""
    return f"{size[0]}x{size[1]}"


def _free_size_fault(size: Size) -> str | None:
    short, long = sorted(size)
    if short % FREE_SIZE_STEP or long % FREE_SIZE_STEP:
        return f"Width and height must be divisible by {FREE_SIZE_STEP}."
    if long > FREE_SIZE_LONGEST_EDGE or not FREE_SIZE_LEAST_PIXELS <= short * long <= FREE_SIZE_MOST_PIXELS:
        return (
            f"The longest edge is {FREE_SIZE_LONGEST_EDGE} at most, and there must be from {FREE_SIZE_LEAST_PIXELS} "
            f"to {FREE_SIZE_MOST_PIXELS} pixels."
        )
    if long > FREE_SIZE_STRETCH * short:
        return f"The aspect ratio must be between 1:{FREE_SIZE_STRETCH} and {FREE_SIZE_STRETCH}:1."
    return None


def _free(name: str, *, transparent: bool = True, more_qualities: bool = True) -> Model:
    return Model(name, sizes=(), transparent=transparent, more_qualities=more_qualities, fidelities=frozenset())


CURRENT: tuple[Model, ...] = (
    Model("gpt-image-1.5"),
    Model("gpt-image-1-mini", fidelities=frozenset({"low"})),
    _free("gpt-image-2", transparent=False, more_qualities=False),
    _free("gpt-image-2-2026-04-21", transparent=False, more_qualities=False),
    _free("gpt-image-2.5-sunburst"),
    _free("gpt-image-2.5-sunburst-2026-09-08"),
    _free("gpt-image-2.5-flare"),
    _free("gpt-image-2.5-flare-2026-09-08"),
    _free("gpt-image-2.6-sunburst"),
    _free("gpt-image-2.6-flare"),
    Model("chatgpt-image-latest"),
)
LEGACY: tuple[Model, ...] = (
    Model("gpt-image-1", retired="2026-10-23"),
    Model("dall-e-2", "dall-e-2", DALL_E_2_SIZES, transparent=False, retired="2026-05-12"),
    Model("dall-e-3", "dall-e-3", DALL_E_3_SIZES, transparent=False, retired="2026-05-12"),
)
ALL = CURRENT + LEGACY
"""All of them, the retired ones working as they did."""
