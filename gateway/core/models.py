"""What a model can do, and what the gateway refuses before an upstream is called."""

from dataclasses import dataclass, field
from typing import Literal

from protocol.errors import ClientFault


@dataclass(frozen=True, slots=True)
class Sizes:
    """The picture sizes a model draws: a list, or a rule; edges in pixels."""

    smallest: int = 64
    largest: int = 2048
    multiple_of: int = 8
    max_pixels: int = 4_194_304
    listed: tuple[tuple[int, int], ...] = ()
    """Where not empty, exactly these (width, height) and nothing else."""

    def check(self, width: int, height: int) -> None:
        """Raise `ClientFault` `resolution_not_supported` with the allowed sizes unless the size is allowed."""
        if self.listed:
            if (width, height) not in self.listed:
                allowed = [f"{w}x{h}" for w, h in self.listed]
                raise _no_size("width", f"{width}x{height} is not one of the model's sizes", allowed=allowed)
            return
        for name, edge in (("width", width), ("height", height)):
            if not self.smallest <= edge <= self.largest:
                raise _no_size(
                    name,
                    f"{name} must be {self.smallest} to {self.largest}",
                    min=self.smallest,
                    max=self.largest,
                )
            if edge % self.multiple_of:
                raise _no_size(
                    name,
                    f"width and height must be multiples of {self.multiple_of}",
                    multiple_of=self.multiple_of,
                )
        if width * height > self.max_pixels:
            raise _no_size("width", f"at most {self.max_pixels} pixels", max_pixels=self.max_pixels)


def _no_size(name: str, message: str, **facts: object) -> ClientFault:
    return ClientFault("resolution_not_supported", message, details={"path": f"params.{name}", **facts})


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `GET /v1/models`: a name that clients ask for, and what stands behind it."""

    id: str
    upstream: str
    """The configured name of the upstream that serves it."""
    vendor_model: str
    """What the upstream calls it."""
    tasks: frozenset[str]
    params: frozenset[str]
    """Names inside `params` that have an effect; any other is refused by name."""
    sizes: Sizes = field(default_factory=Sizes)
    default_size: tuple[int, int] = (512, 512)
    steps: tuple[int, int] = (1, 150)
    default_steps: int = 20
    default_guidance: float = 7.0
    max_n: int = 4
    images_per_call: int = 1
    """A job of more images is split into several calls."""
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    max_prompt: int = 8000
    progress: Literal["steps", "estimated", "none"] = "none"
    previews: bool = False
    cancel: Literal["yes", "queued", "no"] = "no"
    billed: bool = False
    """Whether a call costs money, so that one with unknown outcome is never repeated."""
    price_micros: int = 0
    """Price of one image, in millionths of the currency."""
    description: str = ""
