"""The server's WebSockets, with its habits.

One task sends all messages to all sockets, one after the other, so a reader that stops stops everybody. A
second socket with an id in use takes its place without closing the first; when the first closes, the id is
forgotten and the second hears nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from load.upstreams.comfyui.troubles import SocketKind, SocketRule

PREVIEW = 1
TEXT = 3
PREVIEW_WITH_METADATA = 4
JPEG, PNG = 1, 2

_FLAGS = "feature_flags"
_METADATA = "supports_preview_metadata"


@dataclass(eq=False, slots=True)
class Socket:
    """One WebSocket connection."""

    number: int
    sid: str
    ws: web.WebSocketResponse
    flags: dict[str, Any] = field(default_factory=dict)
    sent: int = 0
    trouble: SocketKind | None = None
    rule: SocketRule | None = None

    def hears(self, kind: str) -> bool:
        """Whether a message of this type still gets to it."""
        if self.rule is not None and self.sent >= self.rule.after:
            self.trouble = self.rule.kind
        return self.trouble is None or (self.trouble == "deaf" and kind == "status")


@dataclass(frozen=True, slots=True)
class Message:
    """One message on its way: text, or bytes with the number of their event in front."""

    kind: str
    payload: str | bytes
    sid: str | None
    """None stands for every socket."""


class Hub:
    """All sockets and the one task that sends."""

    def __init__(self, greet: Callable[[], dict[str, Any]], features: dict[str, Any], *, negotiates: bool) -> None:
        self._greet, self._features, self._negotiates = greet, features, negotiates
        self.sockets: dict[str, Socket] = {}
        self.open: set[Socket] = set()
        self.sent = 0
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._sending = False

    @property
    def idle(self) -> bool:
        """Whether everything published has been handed to its sockets."""
        return self._messages.empty() and not self._sending

    def publish(self, kind: str, data: object, sid: str | None = None) -> None:
        """Send a JSON message to one socket, or to all."""
        self._messages.put_nowait(Message(kind, json.dumps({"type": kind, "data": data}), sid))

    def publish_bytes(self, event: int, data: bytes, sid: str | None = None) -> None:
        """Send a binary message to one socket, or to all."""
        self._messages.put_nowait(Message(f"event {event}", struct.pack(">I", event) + data, sid))

    def wants_metadata(self, sid: str | None) -> bool:
        """Whether the socket of this id asked for previews that name their prompt."""
        socket = self.sockets.get(sid) if sid is not None else None
        return socket is not None and bool(socket.flags.get(_METADATA))

    async def send_all(self) -> None:
        """Send what is published, for ever."""
        while True:
            self._sending = False
            message = await self._messages.get()
            self._sending = True
            for socket in self._receivers(message.sid):
                await self._send(socket, message.kind, message.payload)

    async def serve(self, socket: Socket, running_node: str | None) -> None:
        """Greet a socket and read it until it goes."""
        self.sockets[socket.sid] = socket
        self.open.add(socket)
        try:
            await self._send_json(socket, "status", {"status": self._greet(), "sid": socket.sid})
            if running_node is not None:
                await self._send_json(socket, "executing", {"node": running_node})
            await self._read(socket)
        finally:
            # By its id, not by itself: this forgets a newer socket of the same id as well, as the server does.
            self.sockets.pop(socket.sid, None)
            self.open.discard(socket)

    def _receivers(self, sid: str | None) -> list[Socket]:
        if sid is None:
            return list(self.sockets.values())
        return [self.sockets[sid]] if sid in self.sockets else []

    async def _read(self, socket: Socket) -> None:
        first = True
        async for message in socket.ws:
            if message.type is aiohttp.WSMsgType.PING:
                await self._pong(socket, message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                first = await self._take(socket, message.data, first=first)

    async def _pong(self, socket: Socket, data: bytes) -> None:
        if socket.trouble != "frozen":
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await socket.ws.pong(data)

    async def _take(self, socket: Socket, text: str, *, first: bool) -> bool:
        """Look at a client's message; tells whether the next may still bring the flags."""
        try:
            value = json.loads(text)
            kind, data = value.get("type"), value.get("data", {})
        except (ValueError, AttributeError):
            return first
        if first and kind == _FLAGS and self._negotiates:
            socket.flags = data if isinstance(data, dict) else {}
            await self._send_json(socket, _FLAGS, self._features)
        return False

    async def _send_json(self, socket: Socket, kind: str, data: object) -> None:
        # As the server does, to whoever holds the id now.
        receiver = self.sockets.get(socket.sid)
        if receiver is not None:
            await self._send(receiver, kind, json.dumps({"type": kind, "data": data}))

    async def _send(self, socket: Socket, kind: str, payload: str | bytes) -> None:
        if not socket.hears(kind):
            return
        try:
            if isinstance(payload, str):
                await socket.ws.send_str(payload)
            else:
                await socket.ws.send_bytes(payload)
        except (ConnectionError, aiohttp.ClientError, RuntimeError):
            return
        socket.sent += 1
        self.sent += 1
