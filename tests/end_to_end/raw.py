"""A WebSocket client with nothing hidden: it answers no ping, reads as slowly as told, and can be cut anywhere."""

import asyncio
import base64
import json
import os
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

from protocol.messages import SUBPROTOCOL

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class RawSocket:
    """One connection; `receive` returns (opcode, payload) frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.close_code: int | None = None

    @classmethod
    async def open(
        cls, url: str, path: str = "/v1/stream", *, headers: str = "", receive_buffer: int | None = None
    ) -> "RawSocket":
        """Connect and shake hands; `receive_buffer` bytes bound what the kernel takes in advance."""
        parts = urlsplit(url)
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**16 if receive_buffer is None else 1024)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
            f"{headers}\r\n".encode()
        )
        status = await reader.readline()
        assert b" 101 " in status, status
        while await reader.readline() != b"\r\n":
            pass
        return cls(reader, writer)

    def send(self, message: dict[str, Any]) -> None:
        """Send a JSON message."""
        self.send_frame(TEXT, json.dumps(message).encode())

    def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send one masked frame; the mask is zero, which changes nothing and is allowed."""
        size = len(payload)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", size)
        self.writer.write(head + b"\0\0\0\0" + payload)

    async def receive(self) -> tuple[int, bytes]:
        """Return the next frame. Raises `IncompleteReadError` at the end of the stream."""
        first, second = await self.reader.readexactly(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
        payload = await self._read(size)
        if first & 15 == CLOSE:
            self.close_code = struct.unpack(">H", payload[:2])[0]
        return first & 15, payload

    async def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = await self.reader.read(min(size, 65536))
            if not part:
                raise asyncio.IncompleteReadError(b"", size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    async def message(self) -> dict[str, Any]:
        """Return the next JSON message, passing over everything else."""
        while True:
            opcode, payload = await self.receive()
            if opcode == TEXT:
                message: dict[str, Any] = json.loads(payload)
                return message
            if opcode == CLOSE:
                raise ConnectionResetError(f"closed with {self.close_code}")

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next message of a type."""
        while (message := await self.message())["type"] != kind:
            pass
        return message

    async def closing(self) -> int:
        """Read until the server closes; returns its code."""
        while True:
            opcode, _ = await self.receive()
            if opcode == CLOSE:
                assert self.close_code is not None, "a close frame has a code"
                return self.close_code

    async def hello(self, key: str, **fields: Any) -> dict[str, Any]:
        """Say hello and return the `synced`."""
        self.send({"type": "hello", "v": 1, "token": key, **fields})
        return await self.until("synced")

    def cut(self) -> None:
        """Drop the connection without a word."""
        self.writer.transport.abort()
