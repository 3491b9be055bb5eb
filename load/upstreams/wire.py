"""Answers as bytes, and the ways to deliver them badly.

Every answer is rendered here and written to the transport as it stands, so a cut falls at exactly the byte
that was asked for and the head is the vendor's, not the framework's. aiohttp reads the requests; it writes
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import fcntl
import http
import itertools
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from load.upstreams.faults import Cut, Drip, Fault, Stall

Outcome = Literal["answered", "cut", "stalled"]

_PIECE = 64 * 1024
_FLUSH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer before it is rendered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    times: tuple[tuple[int, float], ...] = ()
    """Makes it a stream: from this byte of the body on, nothing leaves before that moment of the loop's clock.

    A stream's length is not announced, so its body must hold the framing of its chunks.
    """

    def head(self, *, keep_alive: bool = True) -> bytes:
        """Status line and headers with the empty line after them."""
        lines = [
            f"HTTP/1.1 {self.status} {_reason(self.status)}",
            f"Date: {email.utils.formatdate(usegmt=True)}",
            *(f"{name}: {value}" for name, value in self.headers),
            "Transfer-Encoding: chunked" if self.times else f"Content-Length: {len(self.body)}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer is on the wire already and whether the connection lives on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._lives_on = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._lives_on

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: Any = b"") -> None:
        return None


async def deliver(
    request: web.BaseRequest, answer: Answer, fault: Fault | None, closing: asyncio.Event
) -> tuple[Outcome, Sent]:
    """Write the answer, well or as `fault` says; faults that are not about delivery change nothing.

    Raises `ConnectionError` when the client left first. A stall ends when `closing` is set.
    """
    wire = _Wire(request, answer)
    match fault:
        case Cut():
            return await wire.cut(fault)
        case Stall():
            return await wire.stall(fault, closing)
        case Drip():
            return await wire.drip(fault)
        case _:
            return await wire.whole()


class _Wire:
    def __init__(self, request: web.BaseRequest, answer: Answer) -> None:
        self._request = request
        self._keep_alive = request.keep_alive
        self._head = answer.head(keep_alive=self._keep_alive)
        self._body = answer.body
        self._length = len(self._head) + len(self._body)
        self._times = [(len(self._head) + byte, moment) for byte, moment in answer.times]

    async def whole(self) -> tuple[Outcome, Sent]:
        await self._write(0, self._length)
        return "answered", Sent(keep_alive=self._keep_alive)

    async def cut(self, fault: Cut) -> tuple[Outcome, Sent]:
        await self._write(0, self._place(fault.at_byte))
        await self._flush()
        # Nothing may be awaited from here on: losing the connection cancels this task.
        transport = self._request.transport
        if transport is not None and fault.how == "rst":
            _reset(transport)
        elif transport is not None:
            transport.close()
        return "cut", Sent(keep_alive=False)

    async def stall(self, fault: Stall, closing: asyncio.Event) -> tuple[Outcome, Sent]:
        place = self._place(fault.after_bytes)
        await self._write(0, place)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(fault.seconds):
                await closing.wait()
        if closing.is_set():
            return "stalled", Sent(keep_alive=False)
        await self._write(place, self._length)
        return "answered", Sent(keep_alive=self._keep_alive)

    async def drip(self, fault: Drip) -> tuple[Outcome, Sent]:
        step = max(1, fault.piece_bytes)
        for place in range(0, self._length, step):
            await self._write(place, min(place + step, self._length))
            await asyncio.sleep(fault.pause_seconds)
        return "answered", Sent(keep_alive=self._keep_alive)

    def _place(self, byte: int) -> int:
        return max(0, min(byte if byte >= 0 else self._length + byte, self._length))

    async def _write(self, begin: int, end: int) -> None:
        marks = {place for place, _ in self._times if begin < place < end}
        # In pieces, so that a huge body waits for the client and not in memory.
        for place, until in itertools.pairwise(sorted({*range(begin, end, _PIECE), *marks, end})):
            await self._due(place)
            await self._request.writer.write(self._bytes(place, until))

    async def _due(self, place: int) -> None:
        moment = max((moment for byte, moment in self._times if byte <= place), default=0.0)
        remaining = moment - asyncio.get_running_loop().time()
        if remaining > 0:
            await asyncio.sleep(remaining)

    def _bytes(self, begin: int, end: int) -> bytes:
        skip = len(self._head)
        return self._head[begin:end] + self._body[max(0, begin - skip) : max(0, end - skip)]

    async def _flush(self) -> None:
        """Wait until the client's machine has acknowledged all bytes written, or two seconds have passed.

        A reset discards what the sending kernel still holds, and then the cut would fall too early.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                # The kernel has no event for "all acknowledged", so it is asked each millisecond.
                while self._unsent():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    def _unsent(self) -> bool:
        transport = self._request.transport
        if transport is None:
            return False
        return transport.get_write_buffer_size() > 0 or _queued(transport.get_extra_info("socket")) > 0


def _queued(connection: socket.socket) -> int:
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def _reset(transport: asyncio.Transport) -> None:
    # Lingering for zero seconds makes the kernel send RST instead of FIN.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
