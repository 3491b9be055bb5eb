"""A test of the client's machine as a conversation: `>>` says what happens, `<<` which effect follows.

    assert Playbook() >> Opens() << says(HELLO) >> Gets(welcome()) << Deliver(welcome())

Each event has to be followed by all its effects, in order; a mismatch shows both lists as a diff.
"""

import difflib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec

from protocol.codec import encode
from protocol.header import Flag, Header, Kind, pack, parse
from protocol.messages import (
    Accepted,
    Completed,
    Hello,
    Image,
    ImageReady,
    Limits,
    Notice,
    Progress,
    Snapshot,
    Started,
    Submit,
    Synced,
    Timings,
    Welcome,
)
from protocol.replica import Replica
from protocol.replica_effects import Deliver, Effect, Event, Resumed, Send

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
OTHER = "01JD9Z6Q8M4T7V2XK3B5N0RCEX"
SESSION = "01JD9Z6P0C5W8R1YH3M7T2K4QX"
ASSET = "sha256:" + "9f" * 32
HELLO = Hello(v=1, max_message=65535, window=0)
START = 1000.0


class Dice(random.Random):
    """Chance that can be foretold: numbers count up, and `random` is one half."""

    def __init__(self) -> None:
        super().__init__(0)
        self._count = 0

    def getrandbits(self, k: int, /) -> int:
        self._count += 1
        return self._count

    def random(self) -> float:
        return 0.5


def ref(number: int) -> str:
    """Return the name that `Dice` gives to the machine's own request `number`, from 1."""
    return f"{number:032x}"


@dataclass(frozen=True)
class Opens:
    """A connection is opened."""

    token: str | None = None


@dataclass(frozen=True)
class Gets:
    """A message comes from the server."""

    message: msgspec.Struct | bytes | str | dict[str, Any]

    def raw(self) -> bytes | str:
        """Return the message as it comes from the socket."""
        return self.message if isinstance(self.message, bytes | str) else msgspec.json.encode(self.message)


@dataclass(frozen=True)
class Loses:
    """The connection ends."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Waits:
    """Time passes, then the deadline is looked at."""

    seconds: float


@dataclass(frozen=True)
class Wants:
    """The user wishes something: a function of the machine and the time."""

    wish: Callable[[Replica, float], list[Effect]] = field(repr=False)


Happens = Opens | Gets | Loses | Waits | Wants


class Playbook:
    """One conversation with a machine."""

    def __init__(self, replica: Replica | None = None, hello: Hello = HELLO, **limits: Any) -> None:
        self.replica = replica or Replica(hello, Dice(), **limits)
        self.now = START
        self._event: Happens | None = None
        self._got: list[Effect] = []
        self._expected: list[Effect] = []

    def __rshift__(self, event: Happens) -> Self:
        self._compare()
        self._event = event
        self._got = self._perform(event)
        return self

    def __lshift__(self, effect: Effect) -> Self:
        self._expected.append(effect)
        return self

    def __bool__(self) -> bool:
        self._compare()
        return True

    def _perform(self, event: Happens) -> list[Effect]:
        match event:
            case Opens(token):
                return self.replica.connected(self.now, token)
            case Gets():
                return self.replica.receive(event.raw(), self.now)
            case Loses(code, reason):
                return self.replica.disconnected(code, self.now, reason)
            case Waits(seconds):
                self.now += seconds
                return self.replica.timeout(self.now)
            case Wants(wish):
                return wish(self.replica, self.now)

    def _compare(self) -> None:
        got, expected = self._got, self._expected
        self._got, self._expected = [], []
        if got != expected:
            lines = difflib.ndiff([*map(_show, expected)], [*map(_show, got)])
            raise AssertionError("\n".join([f"after {self._event}", "- expected, + got:", *lines]))


def _show(effect: Effect) -> str:
    if not isinstance(effect, Send):
        return str(effect)
    return f"Send {parse(effect.data)}" if effect.binary else f"Send {effect.data.decode()}"


# Sample messages


def says(message: msgspec.Struct) -> Send:
    """Return the effect that sends a message."""
    return Send(encode(message))


def welcome(*, resumed: bool = False, heartbeat_ms: int = 15_000, **limits: int) -> Welcome:
    """Return the answer to `hello`; `limits` are its bytes and counts."""
    return Welcome(
        v=1,
        session=SESSION,
        resumed=resumed,
        time_ms=1,
        heartbeat_ms=heartbeat_ms,
        session_ttl_ms=300_000,
        event_retention_ms=3_600_000,
        asset_retention_ms=86_400_000,
        currency="USD",
        features=[],
        limits=Limits(**limits),
    )


def synced(resume: str = "r1", replayed: int = 0) -> Synced:
    """Return the end of a replay."""
    return Synced(resume=resume, replayed=replayed)


def submit(name: str = "shot-1", **fields: Any) -> Submit:
    """Return a wish for a job."""
    return Submit(ref=name, task="txt2img", params=msgspec.Raw(b'{"prompt":"a harbour"}'), **fields)


def accepted(name: str | msgspec.UnsetType = msgspec.UNSET, job: str = JOB, **fields: Any) -> Accepted:
    """Return a job's first event."""
    return Accepted(
        job=job, seq=1, time_ms=1, task="txt2img", model="sdxl", ref=name, **({"duplicate": False} | fields)
    )


def started(seq: int = 2, job: str = JOB) -> Started:
    """Return a job's second event, as a rule."""
    return Started(job=job, seq=seq, time_ms=1, attempt=1, model="sdxl", steps=30)


def notice(seq: int, job: str = JOB) -> Notice:
    """Return the plainest numbered event."""
    return Notice(job=job, seq=seq, time_ms=1, code="param_clamped", message="steps")


def image(seq: int = 3, job: str = JOB) -> ImageReady:
    """Return a finished picture as a URL."""
    return ImageReady(job=job, seq=seq, time_ms=1, index=0, count=1, format="png", w=8, h=8, bytes=9, asset=ASSET)


def completed(seq: int, job: str = JOB) -> Completed:
    """Return a good end."""
    images = [Image(index=0, format="png", w=8, h=8, bytes=9, asset=ASSET, seq=3)]
    return Completed(job=job, seq=seq, time_ms=1, images=images, timings=Timings(1, 2, 3, 6))


def progress(step: int, job: str = JOB) -> Progress:
    """Return a passing event."""
    return Progress(job=job, phase="denoising", step=step, steps=30, ratio=step / 30)


def chunk(
    data: bytes,
    *,
    total: int,
    offset: int = 0,
    last: bool = False,
    seq: int = 3,
    kind: int = Kind.FINAL,
    job: str = JOB,
    metadata: dict[str, Any] | None = None,
    **fields: int,
) -> bytes:
    """Return a binary message of the server."""
    header = Header(
        kind=kind,
        format=2,
        job_id=job,
        seq=seq,
        total_size=total,
        chunk_offset=offset,
        flags=Flag.LAST_CHUNK if last else 0,
        **fields,
    )
    return pack(header, metadata) + data


def preview(frame: int, data: bytes = b"jpeg", job: str = JOB, **fields: Any) -> bytes:
    """Return a whole preview."""
    return chunk(
        data, total=len(data), last=True, seq=2, kind=Kind.PREVIEW, job=job, frame=frame, step=12, steps=30, **fields
    )


def snapshot(seq: int, state: str = "running") -> Snapshot:
    """Return a job's state in place of its log."""
    fields = {"attempt": 1, "images": [], "reset": True, "reason": "store_reset"}
    return msgspec.convert(
        {"type": "snapshot", "job": JOB, "seq": seq, "time_ms": 1, "state": state, **fields}, Snapshot
    )


def resumed(replayed: int = 0, *, same: bool = False) -> Deliver:
    """Return the effect that every `synced` has."""
    return Deliver(Resumed(SESSION, same, replayed))


def live(play: Playbook, *, resume: bool = False) -> Playbook:
    """Open the connection and bring it to `synced`, whatever is sent meanwhile."""
    for message in (welcome(resumed=resume), synced()):
        if isinstance(message, Welcome):
            play.replica.connected(play.now)
        play.replica.receive(encode(message), play.now)
    return play


def running(play: Playbook | None = None) -> Playbook:
    """Return a conversation that is live, with `JOB` accepted (1) and started (2)."""
    play = live(play or Playbook())
    play.replica.submit(submit())
    for event in (accepted("shot-1"), started()):
        play.replica.receive(encode(event), play.now)
    return play


def delivered(effects: list[Effect]) -> list[Event]:
    """Return the events among effects."""
    return [effect.event for effect in effects if isinstance(effect, Deliver)]
