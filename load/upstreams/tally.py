"""What a stand-in saw: one record per request and the counts over them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(slots=True)
class Call:
    """One request whose head and body were read wholly; times are seconds of the stand-in's clock."""

    number: int
    """Counts from 1 since the start or the last reset, generation and other requests alike."""
    operation: str
    generation: bool
    engine: str | None
    key: str | None
    """None for a key that is not accepted: unknown credentials are never written down."""
    arrived: float
    """When the head had been read."""
    read: float
    """When the body had been read."""
    body_bytes: int
    ended: float | None = None
    status: int | None = None
    """The status of the answer that was rendered, even if a cut or a stall kept it from the client."""
    outcome: Literal["waiting", "answered", "cut", "stalled", "dropped"] = "waiting"
    """`dropped` means that the client left before its answer."""
    fault: str | None = None
    """The kind of the scripted fault that met it."""
    limited: bool = False
    """True when the rate limit itself, not a script, refused it."""
    billed: bool = False
    images: int = 0
    """Pictures it was billed for."""
    seeds: tuple[int, ...] = ()
    client: str | None = None
    """What the client called itself."""
    unknown_fields: tuple[str, ...] = ()
    """Fields the vendor does not know; sent by mistake, most likely."""
    fields: dict[str, object] = field(default_factory=dict)
    """What the body held, ready for JSON; long values and files stand as their size and digest."""


class Tally:
    """Keeps the latest `log_limit` calls and counts all of them since the last reset."""

    def __init__(self, log_limit: int = 100_000) -> None:
        self._log_limit = log_limit
        self.in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Forget all but the calls now in flight, which keep counting as such."""
        self.log: deque[Call] = deque(maxlen=self._log_limit)
        self.peak = self.in_flight
        self._counts: Counter[str] = Counter()
        self._groups: dict[str, Counter[str]] = {name: Counter() for name in _GROUPS}

    def begin(self, call: Call) -> None:
        """Count a call; `end` must follow. Its number is filled in here."""
        self._counts["requests"] += 1
        call.number = self._counts["requests"]
        self.log.append(call)
        if not call.generation:
            return
        self._counts["called"] += 1
        self._groups["per_key"][call.key or "?"] += 1
        self._groups["per_engine"][call.engine or "?"] += 1
        self._groups["per_operation"][call.operation] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def bill(self, call: Call, images: int) -> None:
        """Count that work was begun on so many pictures."""
        call.billed, call.images = True, images
        self._counts["billed"] += 1
        self._counts["billed_images"] += images

    def note(self, event: str) -> None:
        """Count something that only this vendor knows."""
        self._groups.setdefault("events", Counter())[event] += 1

    def end(self, call: Call, now: float) -> None:
        """Count how a call ended, from the outcome and status written into it."""
        call.ended = now
        self._counts["limited"] += call.limited
        if not call.generation:
            return
        self.in_flight -= 1
        self._groups["outcomes"][call.outcome] += 1
        if call.status is not None and call.outcome == "answered":
            self._groups["statuses"][str(call.status)] += 1

    @property
    def called(self) -> int:
        """Generation requests that were read wholly, whatever was answered."""
        return self._counts["called"]

    @property
    def billed(self) -> int:
        """Generation requests on which work was begun."""
        return self._counts["billed"]

    def counters(self) -> dict[str, object]:
        """All counts, ready for JSON."""
        names = ("requests", "called", "billed", "billed_images", "limited")
        plain: dict[str, object] = {name: self._counts[name] for name in names}
        plain |= {name: dict(counts) for name, counts in self._groups.items()}
        return plain | {"in_flight": self.in_flight, "peak": self.peak}

    def records(self, since: int = 0) -> list[dict[str, object]]:
        """The calls numbered above `since`, ready for JSON."""
        return [asdict(call) for call in _after(self.log, since)]


_GROUPS = ("per_key", "per_engine", "per_operation", "statuses", "outcomes")


def _after(log: Iterable[Call], since: int) -> list[Call]:
    return [call for call in log if call.number > since]
