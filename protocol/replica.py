"""The client's session machine: what a client of section 2 does, without socket, clock or chance of its own.

Theory of operation. The driver tells what happened (`connected`, `receive`, `disconnected`, `timeout`) and what the
user wants (`submit`, `cancel`, ...); each call returns effects, which the driver performs in order. `deadline` says
when to call `timeout` if nothing else happens before. The machine knows:

* `Positions`, so that every numbered event is delivered once, in order, over any number of connections;
* the `Inbox`, which applies the rule, holds the repairs of a job apart (R2) and watches a silent job again (R10);
* the `Outbox`, which sends every unanswered request again after `synced` (R9), watches from the newest position;
* the newest `resume` text, adopted at `synced` only (R3), so that a session is never resumed from half a replay.

It refuses to know how long a delivery takes: back-pressure is the driver's, who stops reading. What the server sends
out of turn is ignored, what the driver does out of turn raises `IllegalTransition`.
"""

import random
from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, structs

from protocol.codec import decode_server, encode, is_json
from protocol.errors import ClientFault, ConnectionFault, should_reconnect
from protocol.ids import UploadId
from protocol.inbox import Inbox
from protocol.messages import (
    END_TYPES,
    Accepted,
    Ack,
    AssetStored,
    Bye,
    Cancel,
    Error,
    GoAway,
    Have,
    Hello,
    ImageFormat,
    ImageReady,
    Notice,
    Ok,
    Pong,
    Prefs,
    PreviewReady,
    Progress,
    Queued,
    ServerPing,
    Snapshot,
    Started,
    Submit,
    Synced,
    Unwatch,
    Watch,
    Welcome,
)
from protocol.outbox import Outbox
from protocol.replica_effects import Deliver, Disconnected, Effect, Reconnect, Resumed, Send, Stop, close_name
from protocol.replica_states import TRANSITIONS, Happening, State
from protocol.sequence import Positions
from protocol.unanswered import Unanswered

ABNORMAL: Final = 1006
_HEARTBEAT_SECONDS: Final = 15.0
"""Until a `welcome` tells another."""
_SILENCE_FACTOR: Final = 2.5
_LEAVE_SECONDS: Final = 5.0
_MAX_BACKOFF_SECONDS: Final = 30.0


_CONNECTED: Final = (State.GREETING, State.REPLAYING, State.LIVE, State.LEAVING)
_REPAIRING: Final = (State.REPLAYING, State.LIVE)
_OPEN: Final = (State.OFFLINE, State.GREETING, State.REPLAYING, State.LIVE)


class IllegalTransition(Exception):
    """The driver or the user did what the machine's state does not allow; nothing was changed."""


class Replica:
    """One client's session over any number of connections.

    `hello` is what every connection is opened with; its `resume` and `have` continue an earlier session. At most
    `max_unanswered` requests with `max_upload_bytes` of pictures wait for answers, at most `max_assembly_bytes` of
    inline images for their last chunks: a larger one is asked for as a URL. `ValueError` if the window is smaller
    than a message.
    """

    def __init__(
        self,
        hello: Hello,
        chance: random.Random,
        *,
        max_unanswered: int = 256,
        max_upload_bytes: int = 64 << 20,
        max_assembly_bytes: int = 64 << 20,
        quiet_seconds: float = 60.0,
    ) -> None:
        if 0 < hello.window < hello.max_message:
            raise ValueError("window must be 0 or at least max_message")
        self._hello = hello
        self._resume = hello.resume
        self._chance = chance
        self._positions = Positions(hello.have)
        unanswered = Unanswered(max_unanswered, max_upload_bytes)
        self._inbox = Inbox(
            self._positions,
            unanswered,
            chance,
            max_assembly_bytes=max_assembly_bytes,
            quiet_seconds=quiet_seconds,
        )
        self._outbox = Outbox(self._positions, unanswered, self._inbox, chance)
        self._state = State.OFFLINE
        self._session = ""
        self._is_same_session = False
        self._told: list[Have] = []
        self._received = self._acked = 0
        self._attempts = 0
        self._heard = self._left_at = 0.0
        self._silence_seconds = _SILENCE_FACTOR * _HEARTBEAT_SECONDS
        self._retry_after_seconds: float | None = None
        self._receivers: Final[dict[type, Callable[[Any, float], list[Effect]]]] = {
            Welcome: self._receive_welcome,
            Synced: self._receive_synced,
            Ok: self._outbox.receive_ok,
            Error: self._outbox.receive_error,
            AssetStored: self._outbox.receive_asset,
            GoAway: self._receive_goaway,
            Accepted: self._outbox.receive_accepted,
            Snapshot: self._inbox.receive_snapshot,
            **dict.fromkeys((ServerPing, Pong), self._receive_life),
            **dict.fromkeys((Queued, Progress, PreviewReady), self._inbox.receive_passing),
            **dict.fromkeys((Started, ImageReady, Notice, *END_TYPES), self._inbox.receive_numbered),
        }

    def __repr__(self) -> str:
        return f"<Replica {self._state.value} {self._inbox} {self._outbox}>"

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @property
    def resume(self) -> str | None:
        """The text that resumes this session, also from another process, together with `have`."""
        return self._resume if isinstance(self._resume, str) else None

    def have(self) -> list[Have]:
        """Return the handled positions as `hello` tells them."""
        return self._positions.have()

    def make_ref(self) -> str:
        """Return a new name for a request; keep it over retries of your own, for it is the idempotency key."""
        return self._inbox.make_ref()

    # What happened

    def connected(self, now: float, token: str | None = None) -> list[Effect]:
        """Begin a connection that has just been opened; `token` takes the place of the hello's."""
        self._move(Happening.CONNECTED)
        self._heard = now
        self._received = self._acked = 0
        self._inbox.clear(now)
        # Without `resume` there is no session that `have` could speak of.
        self._told = [] if self.resume is None else self.have()
        hello = structs.replace(self._hello, resume=self._resume, have=self._told)
        return [Send(encode(hello if token is None else structs.replace(hello, token=token)))]

    def receive(self, message: bytes | str, now: float) -> list[Effect]:
        """Take one WebSocket message, text or binary: the first byte tells what it is."""
        if self._state not in _CONNECTED:
            return []
        self._heard = now
        raw = message.encode() if isinstance(message, str) else message
        if is_json(raw):
            return self._only_if(_REPAIRING, self._receive_json(raw, now))
        self._received += len(raw)
        return self._only_if(_REPAIRING, [*self._inbox.receive_binary(raw, now), *self._ack()])

    def disconnected(self, code: int, now: float, reason: str = "") -> list[Effect]:
        """Take the end of the connection, or of the attempt to open one; 1006 where no close code was received.

        `Reconnect` or `Stop` follows, except after a `Stop`.
        """
        if self._state is State.STOPPED:
            return []
        reason = reason or close_name(code)
        # 1000 without our `bye` was some proxy's idea.
        if self._state is not State.LEAVING and (code == 1000 or should_reconnect(code)):
            return self._lose(code, reason)
        self._move(Happening.ENDED)
        return [Stop(code, reason)]

    def deadline(self) -> float | None:
        """Return when to call `timeout`, unless something else happens before; `None` while offline."""
        if self._state not in _CONNECTED:
            return None
        due = self._inbox.due() if self._state in _REPAIRING else None
        return self._silent_at() if due is None else min(due, self._silent_at())

    def timeout(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is too early."""
        if self._state not in _CONNECTED:
            return []
        if now >= self._silent_at():
            return self.disconnected(ABNORMAL, now, "silence")
        return self._inbox.timeout(now) if self._state in _REPAIRING else []

    # What the user wants. All raise `IllegalTransition` after the end, `ClientBusy` over a limit, and `ValueError` if
    # a request with the same `ref` is under way. Where `ref` is absent, nobody is told the answer.

    def submit(self, submit: Submit) -> list[Effect]:
        """Ask for a job; an `Answer` with its `ref` follows, over as many connections as it takes."""
        self._check_open()
        return self._only_if((State.LIVE,), self._outbox.ask(submit))

    def cancel(self, cancel: Cancel) -> list[Effect]:
        """Wish that a job end; its end event tells what happened."""
        self._check_open()
        return self._only_if((State.LIVE,), self._outbox.ask(cancel))

    def watch(self, watch: Watch, now: float) -> list[Effect]:
        """Read a job's log from `after`, also if it was read before, and follow it."""
        self._check_open()
        return self._only_if((State.LIVE,), self._outbox.watch(watch, now))

    def unwatch(self, unwatch: Unwatch) -> list[Effect]:
        """Follow a job no longer; nothing of it is delivered from now on."""
        self._check_open()
        return self._only_if((State.LIVE,), self._outbox.unwatch(unwatch))

    def prefs(self, prefs: Prefs) -> list[Effect]:
        """Change the policy of a job, or of this connection and all that come after it."""
        self._check_open()
        effects = self._only_if((State.LIVE,), self._outbox.prefs(prefs))
        if not isinstance(prefs.job, str):
            given = {"previews": prefs.previews, "finals": prefs.finals}
            changes = {name: value for name, value in given.items() if value is not UNSET}
            self._hello = structs.replace(self._hello, **changes)
        return effects

    def upload(self, data: bytes, image_format: ImageFormat) -> tuple[UploadId, list[Effect]]:
        """Send an image for a later submit to refer to; return its id, which the `Answer` bears as its `ref`.

        `ValueError` if it is empty.
        """
        self._check_open()
        upload, effects = self._outbox.upload(data, image_format)
        return upload, self._only_if((State.LIVE,), effects)

    def bye(self, now: float) -> list[Effect]:
        """End the session: `on_disconnect` is applied, and nothing is resumed. `Stop` follows."""
        self._move(Happening.LEFT)
        if self._state is State.STOPPED:
            return [Stop(1000, close_name(1000))]
        self._left_at = now
        return [Send(encode(Bye()))]

    # Within

    def _move(self, happening: Happening) -> None:
        if not self._may(happening):
            raise IllegalTransition(f"{happening.value} while {self._state.value}")
        self._state = TRANSITIONS[self._state, happening]

    def _may(self, happening: Happening) -> bool:
        return (self._state, happening) in TRANSITIONS

    def _check_open(self) -> None:
        if self._state not in _OPEN:
            raise IllegalTransition(f"nothing can be asked while {self._state.value}")

    def _only_if(self, states: tuple[State, ...], effects: list[Effect]) -> list[Effect]:
        """Return the effects, but nothing to send unless the state is one of `states`."""
        if self._state in states:
            return effects
        return [effect for effect in effects if not isinstance(effect, Send)]

    def _silent_at(self) -> float:
        if self._state is State.LEAVING:
            return self._left_at + _LEAVE_SECONDS
        return self._heard + self._silence_seconds

    def _ack(self) -> list[Effect]:
        """Acknowledge once half the window is used, or so much that the greatest message would not fit."""
        window, used = self._hello.window, self._received - self._acked
        if window == 0 or used < min(window // 2, window - self._hello.max_message):
            return []
        self._acked = self._received
        return [Send(encode(Ack(bytes=self._received)))]

    def _lose(self, code: int, reason: str) -> list[Effect]:
        self._move(Happening.LOST)
        after_seconds = self._retry_after_seconds
        if after_seconds is None:
            after_seconds = self._chance.random() * min(_MAX_BACKOFF_SECONDS, 0.5 * 2 ** min(self._attempts, 6))
            self._attempts += 1
        self._retry_after_seconds = None
        return [Deliver(Disconnected(code, reason, after_seconds)), Reconnect(after_seconds)]

    def _receive_json(self, raw: bytes, now: float) -> list[Effect]:
        try:
            message = decode_server(raw)
        except ClientFault as fault:
            return self._inbox.receive_unreadable(raw, fault.message, now)
        except ConnectionFault:
            return []
        if message is None:
            return self._inbox.receive_unreadable(raw, None, now)
        return self._receivers[type(message)](message, now)

    def _receive_welcome(self, welcome: Welcome, now: float) -> list[Effect]:
        if not self._may(Happening.WELCOMED):
            return []
        self._move(Happening.WELCOMED)
        self._session = welcome.session
        self._is_same_session = welcome.resumed
        self._outbox.max_chunk = welcome.limits.max_chunk
        self._silence_seconds = _SILENCE_FACTOR * welcome.heartbeat_ms / 1000
        return [Deliver(welcome)]

    def _receive_synced(self, synced: Synced, now: float) -> list[Effect]:
        if not self._may(Happening.SYNCED):
            return []
        self._move(Happening.SYNCED)
        self._resume = synced.resume
        self._attempts = 0
        self._positions.settle(self._told)
        resumed = Resumed(self._session, self._is_same_session, synced.replayed)
        return [Deliver(resumed), *self._outbox.repeat(is_same_session=self._is_same_session, now=now)]

    def _receive_goaway(self, goaway: GoAway, now: float) -> list[Effect]:
        self._retry_after_seconds = goaway.retry_after_ms / 1000
        return [Deliver(goaway)]

    def _receive_life(self, message: ServerPing | Pong, now: float) -> list[Effect]:
        return []
