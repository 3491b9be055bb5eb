"""Requests that the vendor's clients send again by themselves, and the jobs that they mean.

The vendor's client libraries repeat a request up to twice when a connection breaks or takes too long. They send no
idempotency key, but they count: `x-stainless-retry-count` is 0 at first, then 1 and 2. A repetition of a request whose
answer was lost joins the job of that request, so that a picture is not drawn and paid for twice. A request that was
refused, or whose job failed, is a new one when it comes again; and a request that comes anew, with a count of 0, is
always a job of its own, however like another it is.

This is remembered in the node alone: after its restart a repetition is a new job, as it is at the vendor's. Whoever
needs more than that sends an `Idempotency-Key`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.edges.compat.dialect import Wish

KEPT: Final = 1024
"""Requests that are remembered at once; the oldest are forgotten."""
SECONDS: Final = 900.0
"""For how long a lost one is remembered: the clients give up after ten minutes, and wait at most two in between."""
COUNT: Final = "x-stainless-retry-count"
State = Literal["open", "lost", "refused", "over"]


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on its way, and the ref of its job."""

    key: bytes
    ref: str
    is_lost_with_client: bool
    """Whether its job goes when its client does, so that there is none to join."""
    state: State = "open"
    since: float = 0.0
    """When it came to its state, on the node's clock."""


class Retries:
    """The requests of this node that may come again."""

    def __init__(self, now: Callable[[], float], new_ref: Callable[[], str]) -> None:
        self._now = now
        self._new_ref = new_ref
        self._kept: OrderedDict[int, Attempt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def enter(self, key: bytes, *, is_again: bool, is_lost_with_client: bool) -> Attempt:
        """Return the attempt that a request is: with the ref of one that it repeats, or with one of its own."""
        self._forget_old()
        before = self._repeated(key) if is_again else None
        if before is not None:
            self._drop(before)
        ref = before.ref if before is not None and before.state != "refused" else self._new_ref()
        attempt = Attempt(key, ref, is_lost_with_client, since=self._now())
        self._kept[id(attempt)] = attempt
        return attempt

    def end(self, attempt: Attempt, state: State) -> None:
        """Remember how an attempt ended; nothing of one that was answered well, or that was sent again meanwhile."""
        if state == "lost" and attempt.is_lost_with_client:
            state = "refused"
        attempt.state, attempt.since = state, self._now()
        if state == "over":
            self._drop(attempt)
        elif id(attempt) in self._kept:
            self._kept.move_to_end(id(attempt))

    def _repeated(self, key: bytes) -> Attempt | None:
        """The attempt that a repetition follows: one whose client went away, else a refused one, else one that waits.

        The last is one whose client has gone without a word, as behind a proxy that keeps the connection.
        """
        same = [attempt for attempt in self._kept.values() if attempt.key == key]
        return min(same, key=lambda attempt: _ORDER.index(attempt.state), default=None)

    def _drop(self, attempt: Attempt) -> None:
        self._kept.pop(id(attempt), None)

    def _forget_old(self) -> None:
        limit = self._now() - SECONDS
        for attempt in [one for one in self._kept.values() if one.state != "open" and one.since < limit]:
            self._drop(attempt)
        while len(self._kept) >= KEPT:
            self._kept.popitem(last=False)


_ORDER: Final = ("lost", "refused", "open")


def key_of(who: tuple[str, str], wish: Wish) -> bytes:
    """Return what is the same in a request and its repetitions; a form's boundary is another each time."""
    pictures = [(one.role, hashlib.sha256(one.content).hexdigest()) for one in wish.sent]
    same = (who, wish.task, wish.model, sorted(wish.params.items()), pictures)
    return hashlib.sha256(msgspec.json.encode(same)).digest()


class Followed:
    """An ASGI answer that tells how an attempt ended."""

    def __init__(self, app: ASGIApp, tell: Callable[[State], None]) -> None:
        self._app = app
        self._tell = tell
        self._status = 0
        self._is_whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_gone = False

        async def heard() -> Message:
            nonlocal has_gone
            message = await receive()
            # After the whole answer every connection ends so.
            has_gone = has_gone or (message["type"] == "http.disconnect" and not self._is_whole)
            return message

        async def sent(message: Message) -> None:
            await send(message)
            self._status = message.get("status", self._status)
            self._is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, heard, sent)
        finally:
            is_answered = self._is_whole and not has_gone
            self._tell("lost" if not is_answered else "over" if self._status < 400 else "refused")
