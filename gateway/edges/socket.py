"""The transport under a connection: uvicorn's protocols, with the rules that uvicorn does not keep.

uvicorn by itself ends a late pong with 1011 even while data flows, has one message limit for a connection's whole life,
closes every socket with 1012 at SIGTERM before the application hears of it, and reads headers without end. So:

* `WireProtocol` lends its transport: finished frames go straight to it, past ASGI; the handshake, reading and the
  closing handshake stay uvicorn's. It has no ping clock (the session machine has one), notes every byte that comes,
  raises the message limit once the client is known, and tells when the write buffer is below its mark again. What
  came in one segment it parses in slices, and from a client that takes nothing it reads no more questions.
* `BoundedHttp` bounds what a client may hold: a request's head has 10 seconds and 32 KiB, and so much may come beside
  its body's bytes (trailers, which are dropped, and extensions of chunks). What still comes of a request that is
  answered already has 30 seconds. A reader that takes nothing for 30 seconds is cut.

Writing past ASGI is legal because no extension is negotiated, a message is one frame, and control frames of uvicorn are
written whole to the same transport.
"""

import asyncio
from asyncio.transports import BaseTransport
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from gateway.edges.sending import Unsent, in_slices

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent

    from gateway.flow.connection import Connection

LOW_WATER: Final = 16_384
SLICE: Final = 4096
"""Bytes that are parsed in one turn of the loop: a segment may hold ten thousand frames, and others wait meanwhile."""
MOST_UNSENT: Final = 1_048_576
"""Bytes above the mark at which reading stops: deliveries never get there; answers to who takes none would."""
FIRST_MESSAGE_LIMIT: Final = 32_768
HEAD_SECONDS: Final = 10.0
HEAD_LIMIT: Final = 32_768
LATE_SECONDS: Final = 30.0
"""For how long a client may go on sending what was answered already: many read their answer only then."""
READER_SECONDS: Final = 30.0
LEAST_TAKEN: Final = 16_384
"""Bytes that a reader takes of a full buffer in each `READER_SECONDS`, or all there is; else it is cut."""
CLOSE_SECONDS: Final = 10.0
SLOW_CLOSE_SECONDS: Final = 180.0
"""A close frame behind a full buffer reaches a slow reader late, but it should reach it: it says why."""


class WireProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose application may write finished frames; see `gateway.flow.outlet.Socket`."""

    high_water = 65_536
    """Bytes in the write buffer above which passing events are merged."""
    connection: "Connection | None" = None
    _written = 0
    _unread: memoryview = memoryview(b"")
    """What came and is not parsed yet; nothing is read while there is any."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=self.high_water, low=min(LOW_WATER, self.high_water))
        self.conn.max_message_size = FIRST_MESSAGE_LIMIT

    async def run_asgi(self) -> None:
        cast("dict[str, Any]", self.scope)["safelight.wire"] = self
        await super().run_asgi()

    def data_received(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.byte_received()
        self._unread = memoryview(data)  # it was empty, or we would not have been reading
        self._take_slice()

    def _take_slice(self) -> None:
        """Parse a slice of what came; the rest has its turn after whatever else the loop has to do."""
        if self.disconnected or self.transport.is_closing():
            self._unread = memoryview(b"")
            return
        piece, self._unread = bytes(self._unread[:SLICE]), self._unread[SLICE:]
        super().data_received(piece)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # websockets takes shorter lines and fewer of them than the HTTP parser before it; uvicorn says nothing then
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
            return
        if self._unread:
            self.loop.call_soon(self._take_slice)
        if self._may_read():
            self._read_on()
        else:
            self._stop_reading()

    def _may_read(self) -> bool:
        unsent = self.transport.get_write_buffer_size()
        return not self._unread and unsent <= self.high_water + MOST_UNSENT and (self.close_sent or self.queue.empty())

    def _stop_reading(self) -> None:
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self.read_paused and self._may_read() and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    async def receive(self) -> "ASGIReceiveEvent":
        """Give the next message, and read on once there is none."""
        message = await self.queue.get()
        self._read_on()
        return message

    def send_receive_event_to_app(self) -> None:
        """Hand on a whole message as bytes, text too: its first byte tells what it is, and JSON checks its UTF-8."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        self.queue.put_nowait({"type": "websocket.receive", "bytes": bytes(data)})
        self._stop_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()
        if self.connection is not None and not self.close_sent:
            self.connection.drained()

    def shutdown(self) -> None:
        """The server ends: what is still open was told before, so only the transport is left to close."""
        self.close(4001, "going_away")

    # --- gateway.flow.outlet.Socket ---

    def write(self, frame: bytes) -> None:
        """Write a finished frame; nothing after the close frame."""
        if not self.close_sent and not self.transport.is_closing():
            self._written += len(frame)
            self.transport.write(frame)

    def progress(self) -> tuple[int, int]:
        """Bytes of frames that have left the write buffer so far, and bytes still in it."""
        backlog = self.transport.get_write_buffer_size()
        return self._written - backlog, backlog

    def has_room(self) -> bool:
        """Whether the write buffer is at most at its mark. Above it, `resume_writing` will come."""
        return self.transport.get_write_buffer_size() <= self.high_water and not self.transport.is_closing()

    def allow_messages_of(self, max_bytes: int) -> None:
        """Let the client send messages of up to `max_bytes` from now on."""
        self.conn.max_message_size = max_bytes

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and wait for the client's, for a while; then the transport is cut."""
        if self.close_sent or self.transport.is_closing():
            return
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            self.transport.close()
            return
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._read_on()
        behind = self.transport.get_write_buffer_size() > LOW_WATER
        self.close_timer = self.loop.call_later(SLOW_CLOSE_SECONDS if behind else CLOSE_SECONDS, self.transport.abort)


def with_high_water(high_water: int) -> type[WireProtocol]:
    """Return the protocol with another mark; uvicorn takes a class and makes its objects itself."""
    return type("WireProtocol", (WireProtocol,), {"high_water": high_water})


class BoundedHttp(HttpToolsProtocol):
    """HTTP whose requests and readers are bounded, so that a trickle in either direction holds nothing for long."""

    unsent: Unsent
    """The large answers of all connections."""
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False
    """Whether the request that is read is past its head and not at its end."""
    _beside_bytes = 0
    """What has come since the last byte of the body."""
    _late_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    _untaken = 0
    """What was in the write buffer when the reader was looked at last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        self._late_done()
        self._reader_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_idle():  # or line breaks before a head that never comes would keep the connection for ever
            self._await_head()
        if self._head_timer is not None:
            self._head_bytes += len(data)
        if self._in_body:
            self._beside_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEAD_LIMIT:
            self._refuse_head(b"431 Request Header Fields Too Large")
        if self._in_body and self._beside_bytes > HEAD_LIMIT:
            self.transport.abort()

    def _is_idle(self) -> bool:
        return self._head_timer is None and not self._in_body and not self._is_answering()

    def _is_answering(self) -> bool:
        return not getattr(self.cycle, "response_complete", True)  # uvicorn has none before the first request

    # --- the request ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # a trailer is no header: uvicorn would put it among them, without end
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_done()
        self._in_body, self._beside_bytes = True, 0
        # `close` alone would wait for a reader that takes nothing; whoever streams may cut it.
        self.scope["safelight.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()
        if self._late_timer is not None:  # the connection is idle only now
            self._late_done()
            self._unset_keepalive_if_required()
            after = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(after, self.timeout_keep_alive_handler)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse_head, b"408 Request Timeout")

    def _head_done(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self, status: bytes) -> None:
        self._head_done()
        if not self.transport.is_closing() and not self._is_answering():
            self.transport.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
        self._close()

    def _late_done(self) -> None:
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None

    # --- the answer ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        super()._start_asgi_task(cycle, cast("ASGI3Application", in_slices(app, self.unsent)))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reader()
        elif self._in_body and not self._is_answering():
            self._late_timer = self.loop.call_later(LATE_SECONDS, self._close)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._reader_done()

    def _close(self) -> None:
        """Close once what is written has been read, if it is read."""
        self._late_done()
        self.transport.close()
        self._await_reader()

    def _await_reader(self) -> None:
        self._reader_done()
        self._untaken = self.transport.get_write_buffer_size()
        self._reader_timer = self.loop.call_later(READER_SECONDS, self._look_at_reader)

    def _look_at_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left and self._untaken - left < LEAST_TAKEN:
            self.transport.abort()
        elif left:
            self._await_reader()

    def _reader_done(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None


def bounded_http() -> type[BoundedHttp]:
    """Return the protocol of one server, whose connections share their bound; see `with_high_water`."""
    return type("BoundedHttp", (BoundedHttp,), {"unsent": Unsent()})
