"""A TCP proxy that cuts a connection after a chosen number of bytes, in one direction."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Direction = Literal["up", "down"]


@dataclass(slots=True)
class CuttingProxy:
    """Forwards to a gateway; the first connection is cut after `after` bytes of `direction`, later ones never."""

    target: str
    direction: Direction
    after: int
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    connections: int = 0
    has_cut: bool = False
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self.connections += 1
        first = self.connections == 1
        parts = urlsplit(self.target)
        there, back = await asyncio.open_connection(parts.hostname, parts.port)
        ends = (writer, back)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._carry(reader, back, "up", first, ends))
                tasks.create_task(self._carry(there, writer, "down", first, ends))
        except* ConnectionError:
            pass
        finally:
            for end in ends:
                end.transport.abort()

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
        first: bool,  # noqa: FBT001
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        while data := await source.read(65536):
            room = self.after - self.passed[direction]
            if first and direction == self.direction and len(data) >= room:
                sink.write(data[:room])
                with contextlib.suppress(ConnectionError):
                    await sink.drain()
                self.passed[direction] += room
                self.has_cut = True
                for end in ends:  # both ways at once, as a lost line does; what the kernel holds still arrives
                    end.close()
                return
            self.passed[direction] += len(data) if first else 0
            sink.write(data)
            await sink.drain()
        sink.close()


@contextlib.asynccontextmanager
async def cutting(target: str, direction: Direction, after: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy on a free port while the context lasts."""
    proxy = CuttingProxy(target, direction, after)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield proxy
    finally:
        server.close()
