"""What a model can do, and what the gateway refuses before an upstream is called."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import ceil, floor, log
from typing import Final, Literal

from gateway.core.normal import Request
from gateway.core.params import BACKGROUNDS
from protocol.errors import ClientFault

Progress = Literal["steps", "estimated", "none"]
Cancel = Literal["yes", "queued", "no"]
Bounds = tuple[float, float]
"""The least and the most that a number may be."""
AS_IT_IS: Final[Mapping[str, Bounds]] = {"weight": (1.0, 1.0), "start": (0.0, 0.0), "end": (1.0, 1.0)}
"""Options of an input image that counts whole and in every step, whatever one would like."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The picture sizes a model draws: a list, or a rule; edges in pixels. Raises `ValueError` if it allows none."""

    smallest: int = 64
    largest: int = 2048
    multiple_of: int = 8
    max_pixels: int = 4_194_304
    min_pixels: int = 0
    max_aspect: float = 0.0
    """How many times longer than the other an edge may be; 0 = any."""
    listed: tuple[tuple[int, int], ...] = ()
    """Where not empty, exactly these (width, height) and nothing else."""

    def __post_init__(self) -> None:
        if self.listed:
            allows = all(min(size) >= 1 for size in self.listed)
        else:
            allows = min(self.smallest, self.multiple_of) >= 1 and self._low <= self._high
            allows = allows and self._low**2 <= self.max_pixels
            allows = allows and self.min_pixels <= min(self.max_pixels, self._high**2)
            allows = allows and (self.max_aspect == 0 or self.max_aspect >= 1)
        if not allows:
            raise ValueError(f"no such sizes: {self}")

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
        if width * height < self.min_pixels:
            raise _no_size("width", f"at least {self.min_pixels} pixels", min_pixels=self.min_pixels)
        if self._is_stretched(width, height):
            message = f"no edge may be over {self.max_aspect:g} times as long as the other"
            raise _no_size("width", message, max_aspect=self.max_aspect)

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """Return the allowed size that is most like the asked one: in shape first, then in area.

        Where a rule allows the shape, the picture shrinks or grows as a whole, and is brought to the rule's multiples.
        """
        asked = (width, height)
        if self.listed:
            return min(self.listed, key=lambda size: _unlikeness(size, asked))
        if self._is_stretched(width, height):
            longest = int(min(asked) * self.max_aspect)
            asked = (min(width, longest), min(height, longest))
        return self._grown(*min(self._around(*asked), key=lambda size: _unlikeness(size, asked)))

    def _is_stretched(self, width: int, height: int) -> bool:
        return self.max_aspect > 0 and max(width, height) > min(width, height) * self.max_aspect

    def _grown(self, width: int, height: int) -> tuple[int, int]:
        """Lengthen the shorter edge for as long as the size is too small or too stretched."""
        while width * height < self.min_pixels or self._is_stretched(width, height):
            if width <= height:
                width += self.multiple_of
            else:
                height += self.multiple_of
        return width, height

    @property
    def _low(self) -> int:
        return -(-self.smallest // self.multiple_of) * self.multiple_of

    @property
    def _high(self) -> int:
        return self.largest // self.multiple_of * self.multiple_of

    def _around(self, width: int, height: int) -> list[tuple[int, int]]:
        """The allowed sizes next to the asked one, which is brought within the bounds; always one at least."""
        scale = min(1.0, self._high / max(width, height), (self.max_pixels / (width * height)) ** 0.5)
        scale = max(scale, self._low / min(width, height))
        # Where the short edge had to grow, the long one may have grown out of the bounds: then the shape is lost.
        longest = min(self._high, self.max_pixels / (scale * min(width, height)))
        edges = (self._multiples(min(edge * scale, longest)) for edge in (width, height))
        return [(wide, high) for wide, high in product(*edges) if wide * high <= self.max_pixels]

    def _multiples(self, edge: float) -> list[int]:
        steps = edge / self.multiple_of
        return [min(max(one * self.multiple_of, self._low), self._high) for one in (floor(steps), ceil(steps))]


def _unlikeness(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    shape = abs(log(one[0] * other[1] / (one[1] * other[0])))
    return round(shape, 6), abs(log(one[0] * one[1] / (other[0] * other[1])))


def _no_size(name: str, message: str, **facts: object) -> ClientFault:
    return ClientFault("resolution_not_supported", message, details={"path": f"params.{name}", **facts})


_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Model:
    """What stands behind a name that clients ask for, at one upstream."""

    id: str
    upstream: str
    """The configured name of the upstream that serves it."""
    vendor_model: str
    """What the upstream calls it."""
    tasks: Mapping[str, frozenset[str]]
    """Task -> the names inside `params` that have an effect there; any other is refused by name."""
    sizes: Sizes = field(default_factory=Sizes)
    task_sizes: Mapping[str, Sizes] = field(default_factory=dict)
    """Sizes of results of tasks for which something else holds."""
    default_size: tuple[int, int] = (512, 512)
    steps: tuple[int, int] = (1, 150)
    default_steps: int = 20
    guidance: Bounds = (0.0, 100.0)
    default_guidance: float = 7.0
    max_n: int = 4
    images_per_call: int = 1
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    """Names of LoRAs that can be asked for."""
    controls: tuple[str, ...] = ()
    """Kinds of control images, as roles of inputs: `canny`, `depth` ..."""
    max_controls: int = 1
    """Control images of one job."""
    preprocessors: tuple[str, ...] = ("none",)
    """What can be made of a control image before it is used; the first is the default, `none` takes it as it is."""
    max_references: int = 1
    """Reference pictures of one job."""
    bounds: Mapping[str, Mapping[str, Bounds]] = field(default_factory=dict)
    """Role of an input image (`control` stands for all kinds) -> option -> its bounds; without any, the protocol's."""
    backgrounds: tuple[str, ...] = BACKGROUNDS
    """What `background` may be in the tasks that take it."""
    idle_beside: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Names inside `params` -> roles of input images: beside one of these the name has no effect, whatever the task."""
    max_prompt: int = 8000
    progress: Progress = "none"
    """`steps`: as the upstream tells; `estimated`: from the time that its own past runs took."""
    previews: bool = False
    cancel: Cancel = "no"
    """What a cancel does to the upstream's work: ends it, ends it while it waits there, or nothing."""
    billed: bool = False
    """Whether a call costs money, so that one with unknown outcome is never repeated."""
    price_micros: int = 0
    """Price of one image, in millionths of the currency."""
    task_prices: Mapping[str, int] = field(default_factory=dict)
    """Prices of tasks that cost something else."""
    request_price: Callable[[Request], int] | None = None
    """Price of one image of a request, where its task alone does not say; a task's price is then the highest."""
    description: str = ""

    @property
    def params(self) -> frozenset[str]:
        """Every name inside `params` that has an effect in some task."""
        return frozenset().union(*self.tasks.values())

    def effects(self, task: str, roles: Collection[str]) -> frozenset[str]:
        """Return the names inside `params` that have an effect in a task with input images of these roles."""
        return frozenset(name for name in self.tasks[task] if self.idle_beside.get(name, _NONE).isdisjoint(roles))

    def sizes_of(self, task: str) -> Sizes:
        """Return the sizes that a task's results may have."""
        return self.task_sizes.get(task, self.sizes)

    def price(self, task: str) -> int:
        """Return the most that one image of a task costs, in millionths of the currency."""
        return self.task_prices.get(task, self.price_micros)

    def price_of(self, request: Request) -> int:
        """Return the price of one image of a request, in millionths of the currency."""
        return self.price(request.task) if self.request_price is None else self.request_price(request)
