"""An answer that waits for its job, over plain HTTP.

A proxy closes a connection on which nothing comes for a minute. So a JSON answer that has been silent for a while
begins with 200 and a space, and another after each such while: JSON may have white space in front. What goes wrong
after that is the dialect's error object in the body, for the status is gone. A bare picture has no such room: it gives
up at its limit with 408 and the job's id, and the job goes on.

The client may go away at any time. Then the job goes on, or is canceled if its policy says so and nobody else waits for
it at a door of this node; either way what it came to can be fetched.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.edges.compat.dialect import Trouble
from gateway.edges.http import until_gone
from gateway.flow.feeds import Feed, Feeds
from gateway.flow.supervise import Supervisor
from gateway.ports import Clock
from protocol.errors import ClientFault
from protocol.ladder import Rung

SPACE = b" "
MOST_OF_JOB: Final = 16
"""Requests that may wait for one job: each is answered with its pictures."""
Caller = tuple[str, str]
"""The account, and the end user under it."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How long an answer is silent, and for how long it waits; seconds."""

    silence: float = inf
    """After which white space keeps the connection open."""
    limit: float = inf
    """After which it gives up."""
    on_disconnect: Literal["continue", "cancel"] = "continue"


class Told(Protocol):
    """Makes the answer once the waiting is over."""

    async def ended(self, feed: Feed) -> Response:
        """Return the answer to a job that has ended, well or not; it fails only if the gateway does."""
        ...

    def gave_up(self, trouble: Trouble) -> Response:
        """Return the answer where the job goes on and the answer cannot."""
        ...

    async def left(self, job: str) -> None:
        """The client has gone, and its job should be canceled unless others wait for it."""
        ...


class Watch:
    """A watcher that wants no previews and only wakes its owner; see `gateway.ports.Watcher`."""

    def __init__(self) -> None:
        self.news = asyncio.Event()

    def changed(self, job: str) -> None:
        """See `gateway.ports.Watcher`."""
        self.news.set()

    async def heard(self, seconds: float) -> None:
        """Wait for news, `seconds` at most; whoever is told of them must clear them before they look."""
        try:
            async with asyncio.timeout(None if seconds == inf else max(0.001, seconds)):
                await self.news.wait()
        except TimeoutError:
            return

    def rung(self, job: str) -> Rung | None:
        """See `gateway.ports.Watcher`."""
        return None


class PatientAnswer:
    """An ASGI answer that follows one job to its end."""

    def __init__(
        self,
        job: str,
        told: Told,
        manners: Manners,
        *,
        feeds: Feeds,
        clock: Clock,
        supervisor: Supervisor,
        waiting: "Waiting",
        who: Caller,
        headers: dict[str, str],
    ) -> None:
        self._job = job
        self._told = told
        self._manners = manners
        self._feeds = feeds
        self._clock = clock
        self._supervisor = supervisor
        self._waiting = waiting
        self._who = who
        self._headers = headers
        self._watch = Watch()
        self._began = clock.now()
        self._has_begun = False

    def __repr__(self) -> str:
        return f"PatientAnswer({self._job}, has_begun={self._has_begun})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._waiting.enter(self._job, self._watch, self._who)
        try:
            feed = await self._feeds.open(self._job)
            self._feeds.follow(feed, self._watch)
            await self._answer(feed, scope, receive, send)
        finally:
            self._waiting.leave(self._job, self._watch)
            self._feeds.leave(self._job, self._watch)

    async def _answer(self, feed: Feed, scope: Scope, receive: Receive, send: Send) -> None:
        listener = self._supervisor.start(until_gone(receive), "door reader")
        listener.add_done_callback(lambda _: self._watch.news.set())
        try:
            response = await self._wait(feed, listener, send)
            if response is not None:
                await self._give(response, scope, receive, send)
        finally:
            listener.cancel()

    async def _wait(self, feed: Feed, listener: "asyncio.Task[None]", send: Send) -> Response | None:
        """Return the answer once there is one, `None` if there is nobody left to give it to."""
        next_space = self._began + self._manners.silence
        limit = self._began + self._manners.limit
        while not feed.has_ended:
            self._watch.news.clear()
            if listener.done():
                await self._leave()
                return None
            if self._waiting.is_over:
                return self._told.gave_up(Trouble("overloaded", "this server is stopping; the job goes on", 2000))
            now = self._clock.now()
            if now >= limit:
                return self._told.gave_up(Trouble("wait_over", "the job takes longer; ask for it by its id", 1000))
            if now >= next_space:
                await self._begin(send)
                next_space = now + self._manners.silence
            await self._watch.heard(min(next_space, limit) - now)
        return await self._told.ended(feed)

    async def _begin(self, send: Send) -> None:
        """Send 200, if it was not sent, and a space."""
        if not self._has_begun:
            self._has_begun = True
            told = {"content-type": "application/json", "x-accel-buffering": "no", **self._headers}
            headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": SPACE, "more_body": True})

    async def _give(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if self._has_begun:
            await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
            return
        for name, value in self._headers.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _leave(self) -> None:
        """Do what the job's policy says of a client that goes away."""
        if self._manners.on_disconnect == "cancel" and self._waiting.count(self._job) == 1:
            await self._told.left(self._job)


class Waiting:
    """Who waits at the doors of this node, for which jobs.

    `most_of_caller` is how many requests of one caller may wait: as many as may run, and beside them those that join
    the job of another and those whose answer is on its way.
    """

    def __init__(self, most_of_caller: int) -> None:
        self._most_of_caller = most_of_caller
        self._watches: dict[str, dict[Watch, Caller]] = {}
        self._callers = Counter[Caller]()
        self.is_over = False

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    def count(self, job: str) -> int:
        """How many wait for a job."""
        return len(self._watches.get(job, ()))

    def check(self, who: Caller) -> None:
        """Raise `ClientFault` if as many requests of a caller wait as may; ask before there is a job."""
        if self._callers[who] >= self._most_of_caller:
            message = f"at most {self._most_of_caller} requests may wait"
            raise ClientFault("concurrency_limit", message, retry_after_ms=1000)

    def enter(self, job: str, watch: Watch, who: Caller) -> None:
        """Somebody waits for a job. Raises `Trouble` where too many do already; the job goes on."""
        if self.count(job) >= MOST_OF_JOB:
            raise Trouble("concurrency_limit", f"at most {MOST_OF_JOB} requests may wait for a job", 1000, job=job)
        try:
            self.check(who)
        except ClientFault as fault:
            raise Trouble.of(fault, job) from fault
        self._watches.setdefault(job, {})[watch] = who
        self._callers[who] += 1

    def leave(self, job: str, watch: Watch) -> None:
        """Somebody waits no more."""
        watches = self._watches[job]
        who = watches.pop(watch)
        self._callers[who] -= 1
        if not self._callers[who]:
            del self._callers[who]
        if not watches:
            del self._watches[job]

    def drain(self) -> None:
        """End every wait: the node stops."""
        self.is_over = True
        for watches in self._watches.values():
            for watch in watches:
                watch.news.set()
