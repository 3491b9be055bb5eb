"""What outlives a node, and the wire: dicts in place of a store, and queues in place of a network."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from protocol.messages import Canceled, Canceler, Completed, Failed, Hello, ImageReady, Limits, Numbered, Previews

MAX_JOBS: Final = 12
MAX_UNFINISHED: Final = 3
HIGH_WATER: Final = 40_000
LIMITS: Final = Limits(msgs_per_s=100_000)
NODES: Final = (0, 1)
HELLOS: Final = (
    Hello(v=1, max_message=16384, window=40_000, finals="inline", previews=Previews(max_fps=2, max_edge=64)),
    Hello(v=1, max_message=65535, window=0, finals="url", previews=Previews()),
)


class Unsigned:
    """Links that nobody follows."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return f"https://gw/{asset}", 1

    def events(self, job: str, time_ms: int) -> str:
        return f"https://gw/{job}"


def payload_of(frame: bytes) -> bytes:
    """Return the message in a frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


# The ledger


@dataclass
class Row:
    """A job: its log and what its worker knows."""

    id: str
    ref: str
    owner: int
    node: int
    images: int
    session: str | None
    cancel_with_session: bool
    log: list[Numbered] = field(default_factory=list)
    is_running: bool = False
    canceled_by: Canceler | None = None
    frames: int = 0
    steps: int = 0
    is_trimmed: bool = False

    @property
    def has_ended(self) -> bool:
        return isinstance(self.log[-1], Completed | Failed | Canceled)

    def fingerprints(self, upto: int) -> list[int]:
        """Return what tells the events up to a number from those of any other log: no two have the same time."""
        return [event.time_ms for event in self.log[:upto]]

    def pictures(self, upto: int) -> list[ImageReady]:
        return [event for event in self.log[:upto] if isinstance(event, ImageReady)]


@dataclass
class SessionRow:
    """A session: who has it, and how often it was taken over."""

    owner: int
    made: int
    generation: int = 0
    jobs: set[str] = field(default_factory=set)


@dataclass
class Ledger:
    """Everything that outlives a node."""

    epoch: int = 1
    jobs: dict[str, Row] = field(default_factory=dict)
    refs: dict[tuple[int, str], str] = field(default_factory=dict)
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    count: int = 0

    def number(self) -> int:
        """Return a number that was never used."""
        self.count += 1
        return self.count

    def name(self) -> str:
        """Return a new ULID, or what looks like one."""
        return f"{self.number():026d}"


# The wire


@dataclass(eq=False)
class Link:
    """One connection's network, both directions; `pass_up` and `pass_down` are how many messages still get through."""

    up: deque[bytes] = field(default_factory=deque)
    down: deque[bytes | int] = field(default_factory=deque)
    """Frames, or the code of the close."""
    pass_up: float = float("inf")
    pass_down: float = float("inf")
    losses: int = 0
    """How many of the next messages to the client vanish."""
    is_closed: bool = False
    """The server writes nothing more."""

    def has_room(self) -> bool:
        return sum(len(one) for one in self.down if isinstance(one, bytes)) <= HIGH_WATER and not self.is_closed

    def write(self, frame: bytes) -> None:
        if not self.is_closed:
            self.down.append(frame)

    def close(self, code: int) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.down.append(code)
