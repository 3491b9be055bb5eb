"""What the fault tests share: a clock that can be set, other accounts, upload chunks, plain HTTP, bad proxies."""

import asyncio
import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from gateway.cli.keys import add_key, make_key
from gateway.clock import SystemClock
from gateway.core.records import JobRecord
from gateway.flow.supervise import Supervisor
from protocol.header import Flag, Format, Header, Kind, pack
from tests.answers import Answer
from tests.end_to_end.harness import Running
from tests.end_to_end.raw import BINARY, TEXT, RawSocket

UPLOAD = "01JD9Z6PZZ000000000000000"
"""An upload's id but for its last character."""
NO_JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
"""A job's ULID that no job has."""


class SetClock:
    """The system's clock, whose wall a test sets; what passes is never set."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now(self) -> float:
        return time.monotonic()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


def upload_id(digit: int) -> str:
    """Return the upload's id that ends with this digit."""
    return f"{UPLOAD}{digit}"


def chunk(
    upload: str, data: bytes, offset: int, total: int, *, last: bool = False, kind: int = Kind.UPLOAD,
    form: int = Format.PNG,
) -> bytes:  # fmt: skip
    """Return one binary message of an upload."""
    flags = Flag.LAST_CHUNK if last else 0
    return pack(Header(kind, form, upload, total_size=total, chunk_offset=offset, flags=flags)) + data


def chunks(upload: str, content: bytes, size: int = 100_000) -> Iterator[bytes]:
    """Yield the messages of a whole upload."""
    for start in range(0, len(content), size):
        part = content[start : start + size]
        yield chunk(upload, part, start, len(content), last=start + len(part) == len(content))


def submit(ref: str, **fields: Any) -> dict[str, Any]:
    """Return a submit that the paper upstream takes; `params` go over its own."""
    params = {"prompt": ref, **fields.pop("params", {})}
    return {"type": "submit", "ref": ref, "task": "txt2img", "params": params, **fields}


async def another_key(running: Running, tenant: str) -> str:
    """Return a key of another account, made now."""
    key = make_key()
    await add_key(running.gateway.ledger.accounts, SystemClock(), tenant, "a test's", key)
    return key


async def token_of(running: Running, subject: str, ttl_ms: int = 3_600_000) -> str:
    """Return a token of an end user."""
    access = running.gateway.node.access
    return access.make_token(await access.identify(running.key), subject, ttl_ms)[0]


async def jobs_of(running: Running, tenant: str = "default", subject: str = "") -> list[JobRecord]:
    """Return the jobs of a subject, newest first."""
    jobs = running.gateway.node.jobs
    return list(await jobs.listed(tenant, subject, ref=None, state=None, after=None, limit=1000))


async def connect(running: Running, token: str | None = None, **hello: Any) -> RawSocket:
    """Return a connection that was greeted."""
    one = await RawSocket.open(running.url)
    await one.hello(token or running.key, **hello)
    return one


async def numbered_until(one: RawSocket, kind: str) -> list[dict[str, Any]]:
    """Read up to the numbered event of this type; returns all that were numbered."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != kind:
        message = await one.message()
        if "seq" in message:
            found.append(message)
    return found


async def read_until(one: RawSocket, kind: str) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Read up to the message of this type; returns the JSON messages and the binary ones."""
    told: list[dict[str, Any]] = []
    pictures: list[bytes] = []
    while not told or told[-1]["type"] != kind:
        opcode, payload = await one.receive()
        if opcode == BINARY:
            pictures.append(payload)
        elif opcode == TEXT:
            told.append(json.loads(payload))
    return told, pictures


async def answer_to(one: RawSocket, message: dict[str, Any]) -> dict[str, Any]:
    """Send a message with a `ref` and return what answers it."""
    one.send(message)
    while (answer := await one.message()).get("ref") != message["ref"]:
        pass
    return answer


async def ask(
    url: str, method: str, path: str, key: str | None, body: bytes | None = None, **headers: str
) -> Answer:  # fmt: skip
    """Ask over HTTP, the path as it stands; the answer's headers are named in small letters."""
    return await asyncio.to_thread(_ask, url, method, path, key, body, headers)


def _ask(
    url: str, method: str, path: str, key: str | None, body: bytes | None, headers: dict[str, str]
) -> Answer:  # fmt: skip
    request = urllib.request.Request(url + path, body, method=method)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Answer(answer.status, _lower(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers), error.read())


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


# --- proxies ---


@dataclass(slots=True)
class BadProxy:
    """Carries connections to a gateway until it swallows what passes, or ends them after a short life."""

    target: str
    life_seconds: float | None = None
    url: str = ""
    connections: int = 0
    is_swallowing: bool = False
    """Everything both ways from now on: a half-open connection, of which nobody is told."""
    swallowed: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def bad_proxy(target: str, life_seconds: float | None = None) -> AsyncIterator[BadProxy]:
    """Run a proxy on a free port while the context lasts."""
    proxy = BadProxy(target, life_seconds)
    supervisor = Supervisor(print)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        supervisor.start(_carry(proxy, reader, writer), "carry")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield proxy
    finally:
        server.close()
        await supervisor.stop()


async def _carry(proxy: BadProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    proxy.connections += 1
    swallows = proxy.connections == 1
    parts = urlsplit(proxy.target)
    inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(proxy.life_seconds), asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(proxy, reader, inner_writer, swallows=swallows))
                tasks.create_task(_pump(proxy, inner_reader, writer, swallows=swallows))
    finally:
        writer.transport.abort()
        inner_writer.transport.abort()


async def _pump(
    proxy: BadProxy, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, swallows: bool
) -> None:  # fmt: skip
    while data := await source.read(65536):
        if proxy.is_swallowing and swallows:
            proxy.swallowed.set()
            continue
        sink.write(data)
        await sink.drain()
    if not (proxy.is_swallowing and swallows):
        sink.transport.abort()
