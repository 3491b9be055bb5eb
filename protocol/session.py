"""The server's end of a connection, as a machine: bytes and time in, effects out.

It knows what is legal now, what must be answered, and when something is overdue; it does not know sockets, tasks, the
ledger or who the client is. Whoever drives it calls `receive` for each message, `timeout` at `deadline`, performs the
effects in order, and tells it what it learnt (`opened`). What goes out about jobs is the `Delivery`'s; this machine
only changes what the delivery wants.

Life: NEW (nothing but a first message of 32 KiB within 10 s) -> OPENING (a `hello` is being checked; whatever comes is
kept back by the caller) -> LIVE -> CLOSED. A refused message leaves the machine as it was. `Close` is always the last
effect; after it nothing counts.

The clock `now` is monotonic seconds. Life is any byte (`byte_received`), not a pong: a pong stuck behind previews is
not death.
"""

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, Literal

from msgspec import UNSET

from protocol.codec import decode_client, encode, error_body, is_json, ref_of
from protocol.delivery import Delivery
from protocol.errors import CLOSES, ClientFault, ConnectionFault
from protocol.header import HeaderFault, parse, payload
from protocol.messages import (
    VERSION,
    Ack,
    Bye,
    Cancel,
    ClientMessage,
    Error,
    GoAway,
    Hello,
    Limits,
    Ok,
    Ping,
    Pong,
    Prefs,
    ServerPing,
    Submit,
    Unwatch,
    Watch,
)
from protocol.uploads import Upload, Uploads
from protocol.wire import PING, text_frame


class Phase(Enum):
    """Where a connection is."""

    NEW = "new"
    OPENING = "opening"
    LIVE = "live"
    CLOSED = "closed"


class Input(Enum):
    """What may happen to a connection."""

    HELLO = "hello"
    OPENED = "opened"
    MESSAGE = "message"
    CLOSE = "close"


TRANSITIONS: Final[dict[tuple[Phase, Input], Phase]] = {
    (Phase.NEW, Input.HELLO): Phase.OPENING,
    (Phase.NEW, Input.CLOSE): Phase.CLOSED,
    (Phase.OPENING, Input.OPENED): Phase.LIVE,
    (Phase.OPENING, Input.CLOSE): Phase.CLOSED,
    (Phase.LIVE, Input.MESSAGE): Phase.LIVE,
    (Phase.LIVE, Input.CLOSE): Phase.CLOSED,
}
"""Absent means illegal: the connection is closed with `bad_message`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write this frame now, whatever the socket's state: control is small and answers what was read."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class CheckHello:
    """Find out who this is and open or resume the session; then call `opened`, or close."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Perform:
    """Do what the client asks; every `ref` must be answered exactly once."""

    message: Submit | Cancel | Watch | Unwatch | Prefs | Bye


@dataclass(frozen=True, slots=True)
class StoreUpload:
    """Check and store an upload, then answer `asset` or `error`."""

    upload: Upload


@dataclass(frozen=True, slots=True)
class Pump:
    """Something may go out now that could not before."""


@dataclass(frozen=True, slots=True)
class PauseReading:
    """Read nothing from the socket until `until`: the client is over its message rate."""

    until: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection with the close code of this name."""

    name: str

    @property
    def code(self) -> int:
        """The number on the wire."""
        return CLOSES[self.name].number


Effect = Send | CheckHello | Perform | StoreUpload | Pump | PauseReading | Close


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks of a connection, in seconds; the defaults are the contract's."""

    heartbeat: float = 15.0
    hello: float = 10.0
    ping: float = 20.0
    silence: float = 40.0
    slow: float = 30.0
    over_rate: float = 10.0
    notice: float = 30.0
    """How long before its end a connection is told that its credential or its age will end it."""
    max_age: float = inf


FIRST_MESSAGE_LIMIT: Final = 32_768
BURST_SECONDS: Final = 2.0
"""`msgs_per_s` may be exceeded for this long: a burst of twice the rate."""


class ServerSession:
    """One connection's machine."""

    def __init__(self, limits: Limits, timing: Timing, now: float, *, authenticated: bool) -> None:
        self.limits = limits
        self.phase = Phase.NEW
        self.delivery = Delivery(limits, 65535, 0, None, "url")
        self._timing = timing
        self._authenticated = authenticated
        self._uploads = Uploads(limits)
        self._opened_at = now
        self._byte_at = now
        self._sent_at = now
        self._pinged_at = now
        self._auth_ends: float = inf
        self._told: set[str] = set()
        self._credit = limits.msgs_per_s * BURST_SECONDS
        self._credit_at = now
        self._over_since: float | None = None

    def __repr__(self) -> str:
        return f"ServerSession({self.phase.value}, {self.delivery!r}, {self._uploads!r})"

    # --- what is told to it ---

    def byte_received(self, now: float) -> None:
        """Any byte came: the client lives."""
        self._byte_at = now

    def sent(self, now: float) -> None:
        """Any message went out: no heartbeat is needed for a while."""
        self._sent_at = now

    def opened(self, hello: Hello, auth_ends: float = inf) -> None:
        """The hello was accepted; `auth_ends` is when its credential ends, on the clock of `now`."""
        self._move(Input.OPENED)
        self._authenticated = True
        self._auth_ends = auth_ends
        previews = None if hello.previews is UNSET else hello.previews
        self.delivery = Delivery(self.limits, hello.max_message, hello.window, previews, hello.finals)

    def closed(self) -> None:
        """The connection is gone, or will be: nothing counts any more."""
        if self.phase is not Phase.CLOSED:
            self._move(Input.CLOSE)

    def receive(self, raw: bytes, now: float) -> list[Effect]:
        """Take one whole WebSocket message; returns what to do about it, in order."""
        if self.phase is Phase.CLOSED:
            return []
        try:
            return self._receive_json(raw, now) if is_json(raw) else self._receive_binary(raw, now)
        except ConnectionFault as fault:
            return self._close(fault.close)

    def timeout(self, now: float, time_ms: int) -> list[Effect]:
        """Do what is due at `now`; `time_ms` is what a heartbeat tells."""
        if self.phase is Phase.CLOSED:
            return []
        for overdue, name in self._ends():
            if now >= overdue:
                return self._close(name)
        effects: list[Effect] = []
        for due, reason in self._notices():
            if now >= due:
                self._told.add(reason)
                effects.append(Send(text_frame(encode(GoAway(reason=reason, retry_after_ms=0)))))
        if self.phase is Phase.LIVE and now >= self._sent_at + self._timing.heartbeat:
            effects.append(self._heartbeat(now, time_ms))
        if now >= self._pinged_at + self._timing.ping:
            self._pinged_at = now
            effects.append(Send(PING))
        for upload in self._uploads.expire(now):
            fault = ClientFault("bad_chunk", "no chunk came for 30 s; upload it again")
            effects.append(_answer(Error(error=error_body(fault), upload=upload)))
        if self.delivery.allow(now):
            effects.append(Pump())
        return effects

    def deadline(self) -> float:
        """When `timeout` must be called next; infinite once closed."""
        if self.phase is Phase.CLOSED:
            return inf
        ends = [overdue for overdue, _ in self._ends()]
        live = self._sent_at + self._timing.heartbeat if self.phase is Phase.LIVE else inf
        notices = [due for due, _ in self._notices()]
        uploads = self._uploads.deadline()
        return min(
            *ends,
            live,
            *notices,
            self._pinged_at + self._timing.ping,
            inf if uploads is None else uploads,
            self.delivery.next_allowed(),
        )

    def upload_referenced(self, upload: str) -> None:
        """A submit refers to the upload; its bytes no longer count against the connection."""
        self._uploads.referenced(upload)

    # --- JSON ---

    def _receive_json(self, raw: bytes, now: float) -> list[Effect]:
        limit = self.limits.max_json if self._authenticated else min(FIRST_MESSAGE_LIMIT, self.limits.max_json)
        try:
            message = decode_client(raw, limit)
        except ClientFault as fault:
            if self.phase is Phase.NEW:
                raise ConnectionFault("bad_message", str(fault)) from fault
            self._move(Input.MESSAGE)
            return [*self._charge(now), _refuse(fault, ref_of(raw))]
        if isinstance(message, Hello):
            return self._receive_hello(message)
        self._move(Input.MESSAGE)
        return self._dispatch(message, now)

    def _receive_hello(self, hello: Hello) -> list[Effect]:
        self._move(Input.HELLO)
        if hello.v != VERSION:
            raise ConnectionFault("unsupported_version", f"this server speaks version {VERSION}")
        if hello.window and hello.window < min(hello.max_message, self.limits.max_message):
            raise ConnectionFault("bad_message", "window is 0 or at least max_message")
        return [CheckHello(hello)]

    def _dispatch(self, message: ClientMessage, now: float) -> list[Effect]:
        match message:
            case Ack():
                self.delivery.ack(message.bytes)
                answer: list[Effect] = [] if message.ref is UNSET else [_answer(Ok(ref=message.ref))]
                return [*answer, Pump()]
            case Ping():
                return [*self._charge(now), _answer(Pong(t=message.t, ref=message.ref))]
            case Submit() | Cancel() | Watch() | Unwatch() | Prefs() | Bye():
                return [*self._charge(now), Perform(message)]
            case _:  # pragma: no cover - Hello was taken by the caller
                raise AssertionError(f"{type(message).__name__} has no row here")

    def _charge(self, now: float) -> list[Effect]:
        """Take one message from the client's rate; over it, reading stops, and after 10 s of that the connection."""
        rate = self.limits.msgs_per_s
        self._credit = min(rate * BURST_SECONDS, self._credit + (now - self._credit_at) * rate) - 1
        self._credit_at = now
        if self._credit >= 0:
            self._over_since = None
            return []
        if self._over_since is None:
            self._over_since = now
        if now - self._over_since >= self._timing.over_rate:
            raise ConnectionFault("rate_limited", f"at most {rate} messages a second")
        return [PauseReading(now + min(1.0, -self._credit / rate))]

    # --- binary ---

    def _receive_binary(self, raw: bytes, now: float) -> list[Effect]:
        self._move(Input.MESSAGE)
        try:
            header = parse(raw)
        except HeaderFault as fault:
            raise ConnectionFault("bad_message", str(fault)) from fault
        try:
            upload = self._uploads.receive(header, payload(raw, header), now)
        except ClientFault as fault:
            return [_answer(Error(error=error_body(fault), upload=header.job_id))]
        return [] if upload is None else [StoreUpload(upload)]

    # --- time ---

    def _ends(self) -> list[tuple[float, str]]:
        """When the connection ends, and as what, unless something happens before."""
        waits = self.delivery.oldest_wait()
        return [
            (self._opened_at + self._timing.hello if self.phase is Phase.NEW else inf, "hello_timeout"),
            (self._byte_at + self._timing.silence, "heartbeat_timeout"),
            (inf if waits is None else waits + self._timing.slow, "slow_consumer"),
            (self._auth_ends, "auth_expired"),
            (self._opened_at + self._timing.max_age, "max_age"),
        ]

    def _notices(self) -> list[tuple[float, Literal["auth_expired", "max_age"]]]:
        """When a live client is told that its connection will end, unless it was."""
        if self.phase is not Phase.LIVE:
            return []
        ends: list[tuple[float, Literal["auth_expired", "max_age"]]] = [
            (self._auth_ends, "auth_expired"),
            (self._opened_at + self._timing.max_age, "max_age"),
        ]
        return [(end - self._timing.notice, reason) for end, reason in ends if reason not in self._told]

    def _heartbeat(self, now: float, time_ms: int) -> Effect:
        self._sent_at = now
        return _answer(ServerPing(time_ms=time_ms))

    # --- the table ---

    def _move(self, happened: Input) -> None:
        after = TRANSITIONS.get((self.phase, happened))
        if after is None:
            raise ConnectionFault("bad_message", f"a {happened.value} is not allowed when {self.phase.value}")
        self.phase = after

    def _close(self, name: str) -> list[Effect]:
        self.closed()
        return [Close(name)]


def _answer(message: Error | Ok | Pong | ServerPing) -> Send:
    return Send(text_frame(encode(message)))


def _refuse(fault: ClientFault, ref: str | None) -> Send:
    return _answer(Error(error=error_body(fault), ref=UNSET if ref is None else ref))
