"""A gateway that plays scripts on a real socket, and the commands that speak to it."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from click.testing import CliRunner, Result
from msgspec import Struct
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gateway.cli import generate as conversation
from gateway.cli.commands import main
from gateway.cli.job import Course
from protocol.codec import decode_client, encode
from protocol.header import Flag, Format, Header, Kind, pack
from protocol.header import parse as parse_header
from protocol.messages import (
    Accepted,
    Canceled,
    Completed,
    ErrorBody,
    Hello,
    Image,
    Limits,
    Progress,
    Queued,
    Started,
    Submit,
    Synced,
    Timings,
    Welcome,
)

JOB = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
ASSET = "sha256:" + "0" * 64
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 10
ROOT = Path(conversation.__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TIMINGS = Timings(queue_ms=1, load_ms=2, run_ms=3, total_ms=6)
OUT_OF_MEMORY = ErrorBody(code="out_of_memory", message="too large", retryable=False, details={"suggest": "512x512"})


def run(*arguments: str | Path, env: dict[str, str] | None = None, stdin: str | None = None) -> Result:
    """Run `safelight` with these arguments and no variable of ours but `env`."""
    ours = {name: None for name in os.environ if name.startswith("SAFELIGHT_")}
    return CliRunner().invoke(main, [str(one) for one in arguments], input=stdin, env={**ours, **(env or {})})


Script = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The gateway's end of one connection, with words for what scripts say."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.hello: Hello | None = None
        self.uploads: list[bytes] = []

    async def read(self) -> Any:
        """Return the client's next JSON message; chunks of uploads are put aside, acks left out."""
        while True:
            raw = await self.socket.recv(decode=False)
            if raw[:1] != b"{":
                self.uploads.append(raw[parse_header(raw).data_offset :])
            elif not raw.startswith(b'{"type":"ack"'):
                return decode_client(raw, 65_536)

    async def say(self, *messages: Struct | bytes) -> None:
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send(message)
            else:
                await self.socket.send(encode(message), text=True)

    async def greet(self, *, resumed: bool = False) -> None:
        self.hello = await self.read()
        welcome = Welcome(
            v=1,
            session="01HZZZZZZZZZZZZZZZZZZZZZZS",
            resumed=resumed,
            time_ms=1,
            heartbeat_ms=15_000,
            session_ttl_ms=1,
            event_retention_ms=1,
            asset_retention_ms=1,
            currency="USD",
            features=[],
            limits=Limits(),
        )
        await self.say(welcome, Synced(resume="token", replayed=0))

    async def accept(self) -> Submit:
        """Greet, read the submit and accept it."""
        await self.greet()
        submit = await self.read()
        assert isinstance(submit, Submit)
        await self.say(
            Accepted(
                job=JOB, seq=1, time_ms=1, task=submit.task, model="m", duplicate=False, ref=submit.ref,
                cost_max_micros=9000,
            )
        )  # fmt: skip
        return submit

    async def until_gone(self) -> None:
        """Answer `bye` as a gateway does: the client closes, or we do."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                if type(await self.read()).__name__ == "Bye":
                    await self.socket.close(1000, "normal")


class ScriptedGateway:
    """A WebSocket server in a thread of its own that plays one script for each connection."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = iter(scripts)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.url = ""
        self.keys: list[str | None] = []
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serve(self._play, "127.0.0.1", 0, compression=None, close_timeout=1) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._ready.set()
            await self._stop.wait()

    async def _play(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.keys.append(socket.request.headers.get("Authorization"))
        try:
            await next(self._scripts)(Peer(socket))
        except ConnectionClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error


def generate(scripted: ScriptedGateway, *arguments: str) -> Result:
    """Run `safelight generate` against the scripted gateway."""
    return run(
        "generate", "A cat, at dawn!", "--url", scripted.url, *arguments, env={"SAFELIGHT_API_KEY": "sk-sl-test"}
    )


def preview(step: int, steps: int = 4) -> bytes:
    """Return a preview's message."""
    header = Header(
        kind=Kind.PREVIEW, format=Format.JPEG, job_id=JOB, total_size=3, seq=2, frame=step, width=8, height=8,
        step=step, steps=steps, image_count=1, flags=Flag.LAST_CHUNK,
    )  # fmt: skip
    return pack(header) + b"jpg"


def final(seq: int, index: int = 0, count: int = 1, data: bytes = PNG) -> bytes:
    """Return a finished picture's message."""
    header = Header(
        kind=Kind.FINAL, format=Format.PNG, job_id=JOB, total_size=len(data), seq=seq, width=64, height=32,
        image_index=index, image_count=count, flags=Flag.LAST_CHUNK,
    )  # fmt: skip
    return pack(header, {"asset": ASSET, "seed": 7 + index}) + data


def progress(step: int, steps: int = 4, *, estimated: bool = False) -> Progress:
    """Return a step's progress."""
    return Progress(
        job=JOB, phase="denoising", step=step, steps=steps, ratio=step / steps, eta_ms=100, estimated=estimated
    )


def image(index: int = 0, **more: Any) -> Image:
    """Return a picture as end events list it."""
    return Image(index=index, format="png", w=64, h=32, bytes=len(PNG), asset=ASSET, **more)


def completed(seq: int, *images: Image) -> Completed:
    """Return the good end."""
    return Completed(job=JOB, seq=seq, time_ms=9, images=list(images), timings=TIMINGS, cost_micros=8000)


def canceled(seq: int, by: Any = "client") -> Canceled:
    """Return the end that somebody wished."""
    return Canceled(job=JOB, seq=seq, time_ms=9, by=by, step=2, images=[], cost_micros=400)


async def paint(peer: Peer) -> None:
    """Play a job of four steps to its good end."""
    await peer.accept()
    await peer.say(Queued(job=JOB, position=2), Started(job=JOB, seq=2, time_ms=2, attempt=1, model="m", steps=4))
    for step in range(1, 5):
        await peer.say(progress(step), preview(step))
    await peer.say(final(3), completed(4, image(seq=3)))
    await peer.until_gone()


def course_of() -> Course:
    """Return the course of a job that was accepted."""
    course = Course(is_welcome=True, currency="USD")
    course.apply(Accepted(job=JOB, seq=1, time_ms=1, task="txt2img", model="m", duplicate=False, cost_max_micros=9000))
    return course
