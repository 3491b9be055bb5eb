"""A small server that plays one script for each connection, on a real socket, and a client of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from protocol.client import Client
from protocol.codec import encode
from protocol.messages import ErrorBody
from protocol.replica_effects import Event
from protocol.streams import Job
from tests.protocol.playbook import accepted, synced, welcome

# Nothing here waits for time to pass: this only ends a test that hangs.
PATIENCE = 30.0
GONE = ErrorBody(code="job_not_found", message="gone", retryable=False)


class Hurry(random.Random):
    """Chance that never waits."""

    def random(self) -> float:
        return 0.0


class Line:
    """The server's end of one connection, for a script."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def say(self, *messages: msgspec.Struct | bytes) -> None:
        """Send messages: text for structs, binary for bytes."""
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send(message)
            else:
                await self.socket.send(encode(message), text=True)

    async def take(self, kind: str) -> dict[str, Any]:
        """Return the client's next message, which has to be of this type."""
        raw = await self.socket.recv()
        message: dict[str, Any] = msgspec.json.decode(raw)
        assert message["type"] == kind, f"expected {kind}, got {message}"
        return message

    async def take_bytes(self) -> bytes:
        """Return the client's next message, which has to be binary."""
        raw = await self.socket.recv()
        assert isinstance(raw, bytes)
        return raw

    async def greet(self, *replay: msgspec.Struct | bytes, resumed: bool = False, **fields: int) -> dict[str, Any]:
        """Bring the connection to `synced`; return the hello."""
        hello = await self.take("hello")
        await self.say(welcome(resumed=resumed, **fields), *replay, synced("r1" if not resumed else "r2"))
        return hello

    async def accept(self, *events: msgspec.Struct | bytes) -> dict[str, Any]:
        """Take a submit, accept it as `JOB` and send events."""
        submit = await self.take("submit")
        await self.say(accepted(submit["ref"]), *events)
        return submit

    async def part(self) -> None:
        """Take `bye` and whatever comes before it, and close as a server does."""
        while msgspec.json.decode(await self.socket.recv())["type"] != "bye":
            pass
        await self.socket.close(1000)

    async def end(self, code: int) -> None:
        """Close with a code."""
        await self.socket.close(code)

    def cut(self) -> None:
        """End the connection without a word."""
        self.socket.transport.abort()


Script = Callable[[Line], Awaitable[None]]
Gate = Callable[[ServerConnection, Request], Response | None]


@asynccontextmanager
async def gateway(*scripts: Script, gate: Gate | None = None) -> AsyncIterator[str]:
    """Serve the scripts, one a connection; at the end all have to be played out. Yields the address."""
    waiting = list(scripts)
    faults: list[BaseException] = []

    async def play(socket: ServerConnection) -> None:
        try:
            await waiting.pop(0)(Line(socket))
        except (AssertionError, ConnectionClosed, IndexError) as fault:
            faults.append(fault)

    subprotocols = [Subprotocol("safelight.v1")]
    async with serve(play, "127.0.0.1", 0, subprotocols=subprotocols, process_request=gate, close_timeout=1) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE):
            yield f"http://127.0.0.1:{port}"
    assert not faults
    assert not waiting, "a connection was expected and did not come"


def client(url: str, **options: Any) -> Client:
    """Return a client that does not wait between attempts."""
    return Client(url, chance=Hurry(), **{"patience": PATIENCE} | options)


async def submitted(user: Client) -> Job:
    """Submit the plainest job."""
    return await user.submit("txt2img", {"prompt": "a harbour"})


async def until_full(job: Job) -> None:
    """Wait until the client has stopped reading because of this job."""
    while not job.is_full:
        await asyncio.sleep(0)


def seqs(events: list[Event]) -> list[int]:
    """Return the numbers of the numbered events."""
    return [event.seq for event in events if hasattr(event, "seq")]
