"""`stream: true`: pictures on their way as server-sent events, then the finished one.

Partial pictures are the model's previews. N of them are spread over the steps: the k-th is the first preview once
k / (N + 1) of the work is done. Only those are encoded for this reader: between them it asks for none. A picture that
is done sooner comes with fewer, as the vendor says of its own.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.types import Receive, Scope, Send

from gateway.edges.compat.bodies import PARSED_HERE, encode_picture
from gateway.edges.compat.dialect import Result, Trouble
from gateway.edges.compat.doors import Begun, Doors
from gateway.edges.compat.openai_images.views import filtered, picture_of
from gateway.edges.compat.openai_images.wire import USAGE, Shape, described
from gateway.edges.compat.patience import Watch
from gateway.edges.http import until_gone
from gateway.flow.feeds import Feed
from protocol.header import HEADER_SIZE, parse
from protocol.ladder import Rung

COMMENT: Final = b":\n\n"
_EDGE: Final = 16_384
"""No preview is larger, so none is made smaller."""
_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


class ImageStream(Watch):
    """An ASGI answer that follows one job of one picture; see `gateway.ports.Watcher` too."""

    def __init__(
        self,
        doors: Doors,
        begun: Begun,
        family: str,
        partials: int,
        shape: Shape,
        refused: Callable[[Trouble], dict[str, Any]],
    ) -> None:
        super().__init__()
        self._doors = doors
        self._begun = begun
        self._family = family
        self._partials = partials
        self._shape = shape
        self._refused = refused
        quality = shape.compression if shape.format in ("jpeg", "webp") else 90
        self._rung = Rung(_EDGE, shape.format, quality)
        self._feed: Feed | None = None
        self._passed = 0
        """How many of the N + 1 parts of the work the newest partial picture has behind it."""
        self._shown = 0
        self._waiting: list[memoryview] = []
        self._clock = doors.node.clock
        self._next_comment = 0.0

    def __repr__(self) -> str:
        return f"ImageStream({self._begun.job}, shown={self._shown} of {self._partials})"

    # --- Watcher ---

    def changed(self, job: str) -> None:
        """See `gateway.ports.Watcher`."""
        preview = None if self._feed is None else self._feed.tail.previews.get(self._rung)
        if preview is not None:
            message = memoryview(preview.wire)[-preview.size :]
            header = parse(message)
            if self._is_due(header.step, header.steps):
                self._passed = self._parts(header.step, header.steps)
                self._waiting.append(message[HEADER_SIZE:])
        super().changed(job)

    def rung(self, job: str) -> Rung | None:
        """See `gateway.ports.Watcher`: previews are wanted only where the next partial picture is due."""
        source = None if self._feed is None else self._feed.source
        return self._rung if source is not None and self._is_due(source[0].step, source[0].steps) else None

    def _is_due(self, step: int, steps: int) -> bool:
        return self._shown + len(self._waiting) < self._partials and self._parts(step, steps) > self._passed

    def _parts(self, step: int, steps: int) -> int:
        return step * (self._partials + 1) // max(1, steps)

    # --- the answer ---

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        doors, job = self._doors, self._begun.job
        doors.waiting.enter(job, self, self._begun.who)
        try:
            feed = self._feed = await doors.node.feeds.open(job)
            doors.node.feeds.follow(feed, self)
            await self._answer(feed, receive, send)
        finally:
            doors.waiting.leave(job, self)
            doors.node.feeds.leave(job, self)

    async def _answer(self, feed: Feed, receive: Receive, send: Send) -> None:
        request = await self._doors.node.jobs.request(feed.tail.job)
        told = {} if request is None else described(self._shape, request.width, request.height)
        listener = self._doors.node.supervisor.start(until_gone(receive), "door reader")
        listener.add_done_callback(lambda _: self.news.set())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            await self._put(send, COMMENT)
            last = await self._run(feed, listener, told, send)
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            listener.cancel()

    def _headers(self) -> list[tuple[bytes, bytes]]:
        told = _HEADERS | self._begun.headers
        return [(name.lower().encode(), value.encode()) for name, value in told.items()]

    async def _run(self, feed: Feed, listener: "asyncio.Task[None]", told: dict[str, Any], send: Send) -> bytes:
        """Send what comes before the end, and return the last event; nothing if there is nobody left to read it."""
        while True:
            self.news.clear()
            while self._waiting and not listener.done():
                await self._put(send, await self._partial(told))
            if listener.done():
                await self._leave()
                return b""
            if feed.has_ended:
                return await self._last(feed)
            if self._doors.waiting.is_over:
                return self._error(Trouble("overloaded", "this server is stopping; the job goes on", 2000))
            if self._clock.now() >= self._next_comment:
                await self._put(send, COMMENT)
            await self.heard(self._next_comment - self._clock.now())

    async def _put(self, send: Send, event: bytes) -> None:
        """Send what comes before the end. Only this counts against the silence: steps are news, but make no bytes."""
        await send({"type": "http.response.body", "body": event, "more_body": True})
        self._next_comment = self._clock.now() + self._doors.terms.silence_seconds

    async def _partial(self, told: dict[str, Any]) -> bytes:
        content = bytes(self._waiting.pop(0))
        index, self._shown = self._shown, self._shown + 1
        fields = {"partial_image_index": index, "created_at": self._now(), **told}
        return await self._event("partial_image", fields, content)

    async def _last(self, feed: Feed) -> bytes:
        ended = await self._doors.ended(feed, self._completed)
        return self._error(ended) if isinstance(ended, Trouble) else ended

    async def _completed(self, result: Result) -> bytes:
        picture = await picture_of(self._doors, result.pieces[0], self._shape)
        if picture is None:
            raise filtered()
        told = described(self._shape, picture.width, picture.height)
        fields = {"created_at": self._now(), **told, "usage": USAGE}
        return await self._event("completed", fields, picture.content)

    async def _event(self, name: str, fields: dict[str, Any], content: bytes) -> bytes:
        def made() -> bytes:
            kind = f"{self._family}.{name}"
            return _frame(kind, {"type": kind, "b64_json": encode_picture(content), **fields})

        return made() if len(content) <= PARSED_HERE else await asyncio.to_thread(made)

    def _error(self, trouble: Trouble) -> bytes:
        return _frame("error", {"type": "error", **self._refused(trouble)})

    def _now(self) -> int:
        return self._clock.time_ms() // 1000

    async def _leave(self) -> None:
        """Do what the job's policy says of a client that goes away."""
        if self._begun.policy == "cancel" and self._doors.waiting.count(self._begun.job) == 1:
            await self._doors.abandon(self._begun.job)


def _frame(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(fields))
