"""`GET /v1/jobs/{id}/events`: a job's events as server-sent events, with the promises of the WebSocket.

Numbered events are never lost and never merged; passing ones all go out while the reader keeps up, and the newest wins
while it does not. What goes out next is the same `Delivery` that connections have; here its finished frames become
lines of text. While a send waits for the socket nothing is taken from it, so a slow reader holds a cursor, one batch of
64 KiB and nothing that grows.

A stream has no voice of its own to say that it was cut: it simply ends, and EventSource comes back with the id of the
last numbered event it got.
"""

import asyncio
import re
from typing import Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.edges.http import Allowed, allowed_job, read_query, until_gone
from gateway.edges.links import TenantLinks
from gateway.flow.feeds import Feed
from gateway.flow.node import Node
from protocol.codec import encode
from protocol.delivery import Cursor, Delivery
from protocol.errors import ClientFault
from protocol.header import parse
from protocol.ladder import Rung
from protocol.messages import NUMBERED_TYPES, PreviewReady, Previews, Snapshot
from protocol.wire import BINARY, payload_of

RETRY_MS: Final = 2000
HIGH_WATER: Final = 65_536
"""Bytes that wait for the next send; what is over them stays with the delivery."""
COMMENT: Final = b":\n\n"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_WITH_ID: Final = frozenset(str(kind.__struct_config__.tag).encode() for kind in (*NUMBERED_TYPES, Snapshot))
_POSITION: Final = re.compile(r"(\d{1,9})\.([^.\s]{1,64})\Z")
_TAG_AT: Final = len('{"type":"')


class Streams:
    """The streams that are open on this node, so that it can end them when it stops."""

    def __init__(self) -> None:
        self._open: set[EventStream] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, stream: "EventStream") -> None:
        """A stream begins."""
        self._open.add(stream)

    def closed(self, stream: "EventStream") -> None:
        """A stream is over."""
        self._open.discard(stream)

    def drain(self) -> None:
        """Take no more, and end those that are open; their readers come back elsewhere."""
        self.draining = True
        for stream in self._open:
            stream.end()


class _After(Struct, frozen=True):
    after: Annotated[int, Meta(ge=0, lt=2**32)] = 0


class EventRoutes:
    """Follows jobs over HTTP."""

    def __init__(self, node: Node, public_url: str, streams: Streams) -> None:
        self._node = node
        self._public_url = public_url
        self._streams = streams

    def routes(self) -> list[Route]:
        """Return the edge's routes."""
        return [Route("/v1/jobs/{job}/events", self.follow, methods=["GET"])]

    async def follow(self, request: Request) -> "Response | EventStream":
        """Stream the job's events after a position; 204 to who has the end already, so that EventSource stops."""
        allowed = await allowed_job(request, self._node, "watch")
        if self._streams.draining:
            raise ClientFault("overloaded", "this server is stopping", retry_after_ms=RETRY_MS)
        after, epoch = _position(request)
        is_same_log = epoch is None or epoch == self._node.access.epoch
        policy = read_query(request, Previews)
        job = allowed.job
        if job.has_ended and is_same_log and after == job.seq:
            return Response(status_code=204)
        feed = await self._node.feeds.open(job.id)
        delivery = Delivery(self._node.limits, self._node.limits.max_message, 0, policy, "url")
        cursor = delivery.watch(job.id, after, owner=allowed.is_owner)
        if after > feed.tail.head or (after > 0 and not is_same_log):
            cursor.snapshot = "store_reset"
        elif feed.tail.trimmed and after < feed.tail.head:
            cursor.snapshot = "trimmed"
        return EventStream(self._node, self._streams, feed, delivery, self._addresses(allowed))

    def _addresses(self, allowed: Allowed) -> "Addresses":
        job = allowed.job
        grant = allowed.grant or self._node.access.events_grant(job.id, self._node.clock.time_ms())
        return Addresses(TenantLinks(self._public_url, self._node.access, job.tenant), job.id, grant)


class Addresses:
    """Where a stream's reader fetches previews: no more is allowed there than here."""

    def __init__(self, links: TenantLinks, job: str, grant: str) -> None:
        self._links = links
        self._job = job
        self._grant = grant

    def preview(self, rung: Rung, frame: int) -> str:
        """Return the address of a rung's newest preview; `frame` only keeps caches from mixing them up."""
        policy = f"max_edge={rung.edge}&format={rung.format}&quality={rung.quality}&frame={frame}"
        return self._links.preview_by(self._job, self._grant, policy)


class EventStream:
    """An answer that follows one job until its end, its reader's, or ours. See `gateway.ports.Watcher` too."""

    def __init__(self, node: Node, streams: Streams, feed: Feed, delivery: Delivery, addresses: Addresses) -> None:
        self._node = node
        self._streams = streams
        self._feed = feed
        self._tails = {feed.tail.job: feed.tail}
        self._delivery = delivery
        self._addresses = addresses
        self._news = asyncio.Event()
        self._waiting = bytearray()
        self._numbered_since: float | None = None
        """Since when a numbered event waits in `_waiting` or in the send under way."""
        self._is_sending = False
        self._sent_at = 0.0
        self._is_over = False

    def __repr__(self) -> str:
        return f"EventStream({self._delivery!r}, waiting={len(self._waiting)}, over={self._is_over})"

    @property
    def _cursor(self) -> Cursor:
        return self._delivery.cursors[self._feed.tail.job]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._node.feeds.follow(self._feed, self)
        self._streams.opened(self)
        try:
            if scope["method"] == "HEAD":
                await _begin(send)
                await _finish(send)
                return
            await self._run(scope, receive, send)
        finally:
            self._streams.closed(self)
            self._node.feeds.leave(self._feed.tail.job, self)

    def end(self) -> None:
        """End the stream once what waits has gone out."""
        self._is_over = True
        self._news.set()

    # --- Watcher ---

    def changed(self, job: str) -> None:
        """See `gateway.ports.Watcher`."""
        self._delivery.mark(job)
        self._take()
        self._news.set()

    def rung(self, job: str) -> Rung | None:
        """See `gateway.ports.Watcher`."""
        return self._cursor.rung

    # --- inside ---

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the reader has gone or has taken nothing for too long."""
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(self._send_all(send), name="events")
            listener = tasks.create_task(until_gone(receive), name="events reader")
            both = (sender, listener)
            while not (sender.done() or listener.done()):
                wait = self._patience_seconds()
                if wait <= 0:
                    await self._give_up(scope, listener)
                    break
                await asyncio.wait(both, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                task.cancel()

    async def _give_up(self, scope: Scope, listener: "asyncio.Task[None]") -> None:
        """Cut a reader that takes nothing: to close in order would wait for it again."""
        self._node.meter.count("events_given_up")
        abort = scope.get("safelight.abort")
        if abort is not None:
            abort()
            await asyncio.wait((listener,), timeout=1)

    def _patience_seconds(self) -> float:
        """For how long what waits may wait on; what begins to wait later has that much at least."""
        waits = (self._numbered_since, self._delivery.oldest_wait())
        now = self._node.clock.now()
        return min((since for since in waits if since is not None), default=now) + self._node.timing.slow - now

    async def _send_all(self, send: Send) -> None:
        self._is_sending = True
        await _begin(send)
        await self._emit(send, b"retry: %d\n\n" % RETRY_MS)
        while True:
            self._take()
            if self._waiting:
                batch, self._waiting = bytes(self._waiting), bytearray()
                await self._emit(send, batch)
            elif self._is_over:
                break
            elif self._node.clock.now() >= self._sent_at + self._node.timing.heartbeat:
                await self._emit(send, COMMENT)
            else:
                await self._hear()
        await _finish(send)

    async def _emit(self, send: Send, batch: bytes) -> None:
        """Hand a batch to the server, which waits here while the socket is full."""
        self._is_sending = True
        await send({"type": "http.response.body", "body": batch, "more_body": True})
        self._is_sending = False
        self._numbered_since = None
        self._sent_at = self._node.clock.now()

    async def _hear(self) -> None:
        """Wait for news, for a rate cap to let something go, or for the next comment to be due."""
        self._news.clear()
        at = min(self._sent_at + self._node.timing.heartbeat, self._delivery.next_allowed())
        try:
            async with asyncio.timeout(max(0.001, at - self._node.clock.now())):
                await self._news.wait()
        except TimeoutError:
            return

    def _take(self) -> None:
        """Turn what may go out now into text, unless a send still waits: then the newest is taken after it."""
        now = self._node.clock.now()
        if not self._is_sending and not self._is_over:
            for frame in self._delivery.pump(self._tails, {}, now, self._node.clock.time_ms()):
                self._put(frame, now)
                if len(self._waiting) >= HIGH_WATER:
                    break
            tail, cursor = self._feed.tail, self._cursor
            self._is_over = tail.has_ended and cursor.seq == tail.head and cursor.snapshot is None
        if self._delivery.dirty:
            self._delivery.held_up(self._tails, now)

    def _put(self, frame: bytes, now: float) -> None:
        payload = self._preview(frame) if frame[0] == BINARY else bytes(payload_of(frame))
        name = payload[_TAG_AT : payload.index(b'"', _TAG_AT)]
        if name in _WITH_ID:
            self._waiting += b"id: %d.%b\n" % (self._cursor.seq, self._node.access.epoch.encode())
            if self._numbered_since is None:
                self._numbered_since = now
        self._waiting += b"event: %b\ndata: %b\n\n" % (name, payload)

    def _preview(self, frame: bytes) -> bytes:
        """Return the event that tells where to fetch a preview."""
        header = parse(payload_of(frame))
        rung = self._cursor.rung
        assert rung is not None, "no rung, no preview"
        return encode(
            PreviewReady(
                job=header.job_id,
                frame=header.frame,
                step=header.step,
                steps=header.steps,
                w=header.width,
                h=header.height,
                url=self._addresses.preview(rung, header.frame),
            )
        )


async def _begin(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})


async def _finish(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _position(request: Request) -> tuple[int, str | None]:
    """Return the number that the reader has, and of which log; what EventSource remembers counts before the address."""
    told = request.headers.get("last-event-id")
    if not told:
        return read_query(request, _After).after, None
    found = _POSITION.match(told)
    if found is None:
        raise ClientFault("invalid_param", "an event's id is SEQ.EPOCH", details={"path": "Last-Event-ID"})
    return int(found[1]), found[2]
