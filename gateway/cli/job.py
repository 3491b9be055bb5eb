"""One job of `safelight generate`, as far as it is known; no I/O."""

from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from protocol.messages import (
    Accepted,
    Canceled,
    Completed,
    Failed,
    Image,
    ImageReady,
    Progress,
    Queued,
    Snapshot,
    Started,
    Welcome,
)
from protocol.replica_effects import Disconnected, Event, ImageBytes, Preview, Resumed, ends_job


@dataclass(slots=True)
class Picture:
    """A finished picture, as far as it came."""

    format: str = ""
    width: int = 0
    height: int = 0
    seed: int | None = None
    url: str | None = None
    data: bytes | None = None


@dataclass(slots=True)
class Course:
    """A job as its events tell it so far."""

    job: str = ""
    """Empty until it is accepted."""
    model: str = ""
    phase: str = ""
    position: int | None = None
    """Place in the queue; `None` = not queued any more, or not yet known."""
    eta_ms: int | None = None
    step: int = 0
    steps: int = 0
    is_estimated: bool = False
    steps_seen: set[int] = field(default_factory=set)
    previews: int = 0
    pictures: dict[int, Picture] = field(default_factory=dict)
    currency: str = ""
    cost_micros: int | None = None
    cost_max_micros: int | None = None
    is_welcome: bool = False
    """Whether the gateway has ever answered."""
    offline: Disconnected | None = None
    """How the connection was lost; `None` = it stands."""
    end: Event | None = None
    is_canceled: bool = False
    """Whether the person wants no more of it."""
    _count: int = 0

    @property
    def count(self) -> int:
        """How many pictures the job has, as far as is known."""
        return max(self._count, 1, *(index + 1 for index in self.pictures))

    def apply(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Welcome():
                self.is_welcome, self.offline, self.currency = True, None, event.currency
            case Disconnected():
                self.offline = event
            case Resumed():
                self.offline = None
            case Accepted():
                self.job, self.model = event.job, event.model
                self.cost_max_micros = _known(event.cost_max_micros)
            case Queued():
                self.position, self.eta_ms = event.position, _known(event.eta_ms)
            case Started():
                # A second one means that the steps begin anew.
                self.position, self.step, self.steps, self.model = None, 0, event.steps, event.model
                self.steps_seen.clear()
            case Progress():
                self._progress(event)
            case Preview():
                self.previews += 1
                self._step(event.step, event.steps)
            case _:
                self._picture_or_end(event)

    def _progress(self, event: Progress) -> None:
        self.position, self.phase, self.eta_ms = None, event.phase, _known(event.eta_ms)
        self.is_estimated = event.estimated
        self._step(event.step, event.steps)

    def _step(self, step: int, steps: int) -> None:
        if steps:
            self.step, self.steps = step, steps
        if step:
            self.steps_seen.add(step)

    def _picture_or_end(self, event: Event) -> None:
        match event:
            case ImageBytes(is_auxiliary=False):
                self._count = event.count
                picture = self.pictures.setdefault(event.index, Picture())
                picture.format, picture.data = event.format, event.data
                picture.width, picture.height = event.width, event.height
                picture.seed, picture.url = event.metadata.get("seed"), event.metadata.get("url")
            case ImageReady():
                self._count = event.count
                self._note(event)
            case Completed() | Failed() | Canceled() | Snapshot():
                for image in event.images:
                    self._note(image)
                self.cost_micros = None if isinstance(event, Snapshot) else _known(event.cost_micros)
        if ends_job(event):
            self.end = event

    def _note(self, image: ImageReady | Image) -> None:
        """Remember a picture that is only told of; its bytes may have come already."""
        picture = self.pictures.setdefault(image.index, Picture())
        picture.format, picture.width, picture.height = image.format, image.w, image.h
        if image.seed is not UNSET:
            picture.seed = image.seed
        if image.url is not UNSET:
            picture.url = image.url

    def steps_text(self) -> str:
        """Say how many steps were seen, and previews."""
        about = "about " if self.is_estimated else ""
        previews = counted(self.previews, "preview")
        if not self.steps:
            return previews
        return f"{about}{len(self.steps_seen)} of {counted(self.steps, 'step')}, {previews}"

    def cost_text(self) -> str:
        """Say what it cost, or may cost while it runs."""
        if self.cost_micros is not None:
            return f"cost {money(self.cost_micros, self.currency)}"
        if self.cost_max_micros is not None and self.end is None:
            return f"cost at most {money(self.cost_max_micros, self.currency)}"
        return "cost unknown"

    def state_text(self) -> str:
        """Say in a few words what is going on."""
        if not self.is_welcome:
            return "connecting"
        if self.offline is not None:
            return f"connection lost, again in {self.offline.after_seconds:.1f} s"
        if not self.job:
            return "asking"
        if self.position is not None:
            return f"number {self.position} in the queue"
        return self.phase or ("started" if self.steps else "waiting")


def _known(value: int | UnsetType) -> int | None:
    return None if isinstance(value, UnsetType) else value


def counted(count: int, noun: str) -> str:
    """Return the noun with its number, in the plural where that is due."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def money(micros: int, currency: str) -> str:
    """Return an amount in its currency."""
    whole, rest = divmod(micros, 1_000_000)
    digits = f"{rest:06}".rstrip("0")
    text = f"{whole}.{digits:0<2}" if digits else str(whole)
    return f"{text} {currency}".rstrip()
