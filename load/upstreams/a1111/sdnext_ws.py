"""SD.Next's WebSocket of one job: its frames, the commands it takes, and tickets to open it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from typing import Any

from aiohttp import WSMsgType, web

from load.upstreams.a1111.answers import answer
from load.upstreams.a1111.sdnext_jobs import Frame, JobQueue, StoredJob
from load.upstreams.a1111.state import State
from load.upstreams.faults import Cut, Fault, Refuse, Stall
from load.upstreams.wire import Outcome, deliver

_TICKET_SECONDS = 60.0
_LAST = {"completed", "error", "cancelled"}


class Tickets:
    """Tickets that open one WebSocket each, for a minute."""

    def __init__(self) -> None:
        self._valid_until: dict[str, float] = {}

    def new(self) -> str:
        """A fresh ticket."""
        ticket = secrets.token_urlsafe(32)
        self._valid_until[ticket] = time.monotonic() + _TICKET_SECONDS
        return ticket

    def take(self, ticket: str | None) -> bool:
        """Whether the ticket is good; it is not any more."""
        return time.monotonic() < self._valid_until.pop(ticket or "", 0.0)


class Watcher:
    """One connection that watches one job."""

    def __init__(self, request: web.Request, queue: JobQueue, state: State, *, ping_seconds: float) -> None:
        self._request = request
        self._queue = queue
        self._state = state
        self._ping_seconds = ping_seconds
        self._socket = web.WebSocketResponse()
        self._sent = 0
        self.status = 101
        self.outcome: Outcome = "answered"

    async def run(self, fault: Fault | None, *, may: bool, closing: asyncio.Event) -> web.StreamResponse:
        """Serve the connection to its end. A cut's place counts frames here, and so does a stall's."""
        id_ = self._request.path.split("/")[-2]
        if isinstance(fault, Refuse) or not may or id_ not in self._queue.jobs:
            return await self._turn_away(fault.status if isinstance(fault, Refuse) else 403, closing)
        await self._socket.prepare(self._request)
        watched = self._queue.subscribe(id_)
        try:
            with contextlib.suppress(_Broken):
                await self._tell(self._queue.jobs[id_], watched, fault)
                await self._socket.close()
        finally:
            self._queue.unsubscribe(id_, watched)
        return self._socket

    async def _turn_away(self, status: int, closing: asyncio.Event) -> web.StreamResponse:
        # Closing a WebSocket before it was accepted reaches the client as a refused handshake.
        self.status = status
        refusal = answer(status, b"", "text/plain; charset=utf-8")
        self.outcome, sent = await deliver(self._request, refusal, None, closing)
        return sent

    async def _tell(self, job: StoredJob, watched: asyncio.Queue[Frame], fault: Fault | None) -> None:
        await self._send({"type": "status", "status": job.status, "progress": job.progress}, fault)
        if job.over:
            await self._send(_ending(job), fault)
            return
        listening = asyncio.create_task(self._listen())
        try:
            await self._stream(watched, listening, fault)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _stream(self, watched: asyncio.Queue[Frame], listening: asyncio.Task[None], fault: Fault | None) -> None:
        while not listening.done():
            waiting = asyncio.create_task(watched.get())
            try:
                await asyncio.wait({waiting, listening}, timeout=self._ping_seconds, return_when="FIRST_COMPLETED")
                frame: Frame = waiting.result() if waiting.done() else {"type": "ping"}
            finally:
                waiting.cancel()
            if listening.done():
                return
            await self._send(frame, fault)
            if isinstance(frame, dict) and frame["type"] in _LAST:
                return

    async def _listen(self) -> None:
        """Take commands until the client goes."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                return
            command = _command(message.data)
            if command == "interrupt":
                self._state.interrupted = True
            elif command == "skip":
                self._state.skipped = True
            else:
                continue
            await self._socket.send_str(json.dumps({"type": "ack", "command": command}))

    async def _send(self, frame: Frame, fault: Fault | None) -> None:
        if isinstance(fault, Cut) and self._sent >= fault.at_byte:
            self._break("cut")
        if isinstance(fault, Stall) and self._sent >= fault.after_bytes:
            self.outcome = "stalled"
            await asyncio.sleep(3600 if fault.seconds is None else fault.seconds)
        self._sent += 1
        if isinstance(frame, bytes):
            await self._socket.send_bytes(frame)
        else:
            await self._socket.send_str(json.dumps(frame, separators=(",", ":")))

    def _break(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self._request.transport is not None:
            self._request.transport.abort()
        raise _Broken


class _Broken(Exception):
    """The connection was broken on purpose."""


def _ending(job: StoredJob) -> dict[str, Any]:
    if job.status == "completed":
        return {"type": "completed", "result": job.result(with_paths=True)}
    if job.status == "failed":
        return {"type": "error", "error": job.error or ""}
    return {"type": "cancelled"}


def _command(text: str) -> object:
    try:
        given = json.loads(text)
    except ValueError:
        return None
    return given.get("type") if isinstance(given, dict) else None
