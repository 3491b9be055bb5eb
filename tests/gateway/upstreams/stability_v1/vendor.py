"""The adapter opened, what is asked of it, and what a vendor may answer."""

import asyncio
import base64
import io
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from PIL import Image

from gateway.core.normal import Request
from gateway.core.reports import ImageMade, Report, UpstreamFault
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.stability_v1 import Engine, StabilityV1
from gateway.upstreams.stability_v1.models import model_of
from tests import pictures

KEY = "sk-secret-key-of-the-tests-0123456789"
V16 = "stable-diffusion-v1-6"
XL = "stable-diffusion-xl-1024-v1-0"
ENGINES = {V16: Engine(model="sd", price_micros=10_000), XL: Engine(model="sdxl", price_micros=20_000, max_n=4)}


@asynccontextmanager
async def adapter(base_url: str, **options: Any) -> AsyncIterator[StabilityV1]:
    """An open adapter."""
    upstream = StabilityV1(**{"name": "stability", "base_url": base_url, "api_key": KEY, "engines": ENGINES, **options})
    await upstream.open()
    try:
        yield upstream
    finally:
        await upstream.close()


def order(task: str = "txt2img", engine: str = V16, **options: Any) -> CallOrder:
    """An order of a small picture, with what is named changed."""
    fields: dict[str, Any] = {
        "task": task,
        "model": "sd",
        "prompt": "a lamp",
        "negative_prompt": "",
        "width": 320,
        "height": 320,
        "steps": 20,
        "guidance": 7.0,
        "seed": 7,
        "n": 1,
        "strength": None if task == "txt2img" else 0.65,
    }
    call = {name: options.pop(name) for name in ("count", "inputs", "sent", "seed") if name in options}
    request = Request(**{**fields, **options})
    model = model_of("stability", engine, ENGINES[engine])
    return CallOrder("call-1", model, request, **{"seed": 7, "count": 1, **call})


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return [report async for report in upstream.run(asked)]


async def images(upstream: Upstream, asked: CallOrder) -> list[ImageMade]:
    """The pictures of a call."""
    return [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]


async def fault(upstream: Upstream, asked: CallOrder | None = None) -> UpstreamFault:
    """The fault that a call must end with; it shows the key nowhere."""
    with pytest.raises(UpstreamFault) as caught:
        await reports(upstream, asked or order())
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert KEY not in shown + repr(found.details)
    return found


def flat(colour: Any, size: tuple[int, int] = (320, 320), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return pictures.flat(colour, size, mode, format)


def pixel(image: ImageMade, at: tuple[int, int]) -> tuple[int, ...]:
    """A pixel of a finished picture."""
    with Image.open(io.BytesIO(image.picture.content)) as opened:
        colour = opened.convert("RGB").getpixel(at)
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


def near(colour: tuple[int, ...], other: tuple[float, ...], by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """A server that does with its connections what the stand-in never would."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(status: str, headers: str, body: bytes) -> Serve:
    """Answer every request like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await reader.readexactly(length)
        writer.write(f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body)
        await writer.drain()

    return serve


PNG = flat("red", (64, 64))


def answer(*artifacts: Any, nested: bool = False) -> bytes:
    """An answer's body."""
    return json.dumps({"artifacts": [list(artifacts)] if nested else list(artifacts)}).encode()


def artifact(content: bytes = PNG, **options: Any) -> dict[str, Any]:
    """One picture of an answer."""
    return {"base64": base64.b64encode(content).decode(), "seed": 1, "finishReason": "SUCCESS", **options}
