"""A TCP proxy that cuts a connection after a chosen number of bytes, in one direction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, cast
from urllib.parse import urlsplit

from gateway.flow.supervise import Supervisor

Direction = Literal["up", "down"]


@dataclass(slots=True)
class CuttingProxy:
    """Forwards to a gateway; the first connection is cut after `after` bytes of `direction`, later ones never."""

    target: str
    direction: Direction
    after: int
    supervisor: Supervisor
    passed: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    connections: int = 0
    has_cut: bool = False
    url: str = ""


class _End(asyncio.Protocol):
    """One end of a carried connection: what comes here goes out at the other end."""

    def __init__(self, proxy: CuttingProxy, direction: Direction, other: "_End | None" = None) -> None:
        self._proxy = proxy
        self._direction = direction
        self._early = bytearray()
        self._first = False
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.other is None:  # a client has come: go to the gateway for it
            self._proxy.connections += 1
            self._first = self._proxy.connections == 1
            self._proxy.supervisor.start(self._reach(), "reach the gateway")
            return
        self._first = self.other._first
        self.other.other = self
        self.other.data_received(b"")

    async def _reach(self) -> None:
        parts = urlsplit(self._proxy.target)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _End(self._proxy, "down", self), parts.hostname or "", parts.port or 80
            )
        except OSError:
            self.close()

    def data_received(self, data: bytes) -> None:
        self._early += data
        if self.other is None or self.other.transport is None:
            return
        data = bytes(self._early)
        self._early.clear()
        room = self._proxy.after - self._proxy.passed[self._direction]
        if self._first and self._direction == self._proxy.direction and len(data) >= room:
            data = data[:room]
            self._proxy.has_cut = True
        if self._first:
            self._proxy.passed[self._direction] += len(data)
        self.other.transport.write(data)
        if self._first and self._proxy.has_cut:  # both ways at once, as a lost line does
            self.other.close()
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None:
            self.other.close()

    def close(self) -> None:
        """Close this end; what was written still arrives."""
        if self.transport is not None:
            self.transport.close()


@contextlib.asynccontextmanager
async def cutting(target: str, direction: Direction, after: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy on a free port while the context lasts."""
    supervisor = Supervisor(print)
    proxy = CuttingProxy(target, direction, after, supervisor)
    server = await asyncio.get_running_loop().create_server(lambda: _End(proxy, "up"), "127.0.0.1", 0)
    proxy.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield proxy
    finally:
        server.close()
        await supervisor.stop()
