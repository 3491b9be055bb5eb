"""Requests that the vendor's clients send again by themselves, and the jobs that they mean.

The vendor's client libraries repeat a request up to twice when a connection breaks or takes too long. They send no
idempotency key, but they count: `x-stainless-retry-count` is 0 at first, then 1 and 2. A repetition of a request whose
answer was lost joins the job of that request, so that a picture is not drawn and paid for twice; if the repetition is
refused, the next one still joins it. A request that was refused, or whose job failed, is a new one when it comes again;
and a request that comes anew, with a count of 0, is always a job of its own, however like another it is.

This is remembered in the node alone: after its restart a repetition is a new job, as it is at the vendor's. Whoever
needs more than that sends an `Idempotency-Key`. No account can have another's requests forgotten, and no end user alone
those of another.
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
"""Requests of an account that are remembered at once."""
KEPT_EACH: Final = 256
"""Of them those of one end user, or of a server that names none: more than may run and be refused meanwhile."""
SECONDS: Final = 900.0
"""For how long a lost one is remembered: the clients give up after ten minutes, and wait at most two in between."""
COUNT: Final = "x-stainless-retry-count"
State = Literal["open", "lost", "refused", "over"]
Owner = tuple[str, str]
"""The account, and the end user under it."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on its way, and the ref of its job."""

    owner: Owner
    key: bytes
    ref: str
    repeats: bool
    """Whether the ref came from another, so that it may have a job already."""
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
        self._kept: dict[str, OrderedDict[int, Attempt]] = {}
        """By account; those that came to their state last are the last."""

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def enter(self, owner: Owner, key: bytes, *, is_again: bool, is_lost_with_client: bool) -> Attempt:
        """Return the attempt that a request is: with the ref of one that it repeats, or with one of its own."""
        kept = self._kept.setdefault(owner[0], OrderedDict())
        self._forget_old(kept)
        before = _repeated(kept, key) if is_again else None
        if before is not None:
            kept.pop(id(before))
        joins = before is not None and before.state != "refused"
        ref = before.ref if before is not None and joins else self._new_ref()
        attempt = Attempt(owner, key, ref, joins, is_lost_with_client, since=self._now())
        _make_room(kept, owner)
        kept[id(attempt)] = attempt
        return attempt

    def refuse(self, attempt: Attempt, *, may_come_again: bool) -> None:
        """Remember that an attempt made no job; the one that it was to join is as lost as it was before."""
        self._become(attempt, "lost" if attempt.repeats else "refused" if may_come_again else "over")

    def lose(self, attempt: Attempt) -> None:
        """Remember an attempt of which nobody knows whether it made a job; its ref does."""
        self._become(attempt, "lost")

    def end(self, attempt: Attempt, state: State) -> None:
        """Remember how the answer to an attempt ended; nothing if that was well, or it was sent again meanwhile."""
        self._become(attempt, "refused" if state == "lost" and attempt.is_lost_with_client else state)

    def _become(self, attempt: Attempt, state: State) -> None:
        attempt.state, attempt.since = state, self._now()
        kept = self._kept.get(attempt.owner[0], OrderedDict())
        if state == "over":
            kept.pop(id(attempt), None)
        elif id(attempt) in kept:
            kept.move_to_end(id(attempt))
        if not kept:
            self._kept.pop(attempt.owner[0], None)

    def _forget_old(self, kept: OrderedDict[int, Attempt]) -> None:
        limit = self._now() - SECONDS
        for attempt in [one for one in kept.values() if one.state != "open" and one.since < limit]:
            kept.pop(id(attempt))


def _repeated(kept: OrderedDict[int, Attempt], key: bytes) -> Attempt | None:
    """The attempt that a repetition follows: one whose client went away, else a refused one, else one that waits.

    The last is one whose client has gone without a word, as behind a proxy that keeps the connection.
    """
    same = [attempt for attempt in kept.values() if attempt.key == key]
    return min(same, key=lambda attempt: _ORDER.index(attempt.state), default=None)


def _make_room(kept: OrderedDict[int, Attempt], owner: Owner) -> None:
    """Forget one attempt where there is no room for another: one without a job if there is one, else the oldest."""
    own = [attempt for attempt in kept.values() if attempt.owner == owner]
    crowd = own if len(own) >= KEPT_EACH else list(kept.values()) if len(kept) >= KEPT else []
    if crowd:
        kept.pop(id(min(crowd, key=lambda attempt: attempt.state != "refused")))


_ORDER: Final = ("lost", "refused", "open")


def key_of(who: Owner, wish: Wish) -> bytes:
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
