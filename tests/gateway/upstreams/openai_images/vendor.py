"""An adapter of OpenAI Images that speaks to the stand-in, what it is asked for, and what came."""

import asyncio
import io
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from PIL import Image

from gateway.core.normal import Request
from gateway.core.reports import ImageMade, Picture, Report, UpstreamFault
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.openai_images import ImageModel, OpenAIImages

KEY = "sk-secret-key-of-the-tests-0123456789"
GPT = "gpt-image-1.5"
MODELS = {
    GPT: ImageModel(price_micros=40_000),
    "gpt-image-2": ImageModel(price_micros=50_000),
    "dall-e-3": ImageModel(price_micros=40_000),
    "dall-e-2": ImageModel(price_micros=20_000),
}


@asynccontextmanager
async def adapter(url: str, root: str = "/v1", **options: Any) -> AsyncIterator[OpenAIImages]:
    """An open adapter."""
    chosen: dict[str, Any] = {"name": "images", "base_url": url + root, "api_key": KEY, "models": MODELS, **options}
    upstream = OpenAIImages(**chosen)
    await upstream.open()
    try:
        yield upstream
    finally:
        await upstream.close()


def order(upstream: OpenAIImages, model: str = "", task: str = "txt2img", **options: Any) -> CallOrder:
    """An order of a picture of a model's default size, with what is named changed; the first model if none is named."""
    offered = next(one for one in upstream.models if model in ("", one.id))
    assert task in offered.tasks
    fields: dict[str, Any] = {
        "task": task,
        "model": offered.id,
        "prompt": "a lamp",
        "negative_prompt": "",
        "width": offered.default_size[0],
        "height": offered.default_size[1],
        "steps": offered.default_steps,
        "guidance": offered.default_guidance,
        "seed": 7,
        "n": 1,
    }
    call = {name: options.pop(name) for name in ("count", "inputs", "sent", "seed") if name in options}
    return CallOrder("call-1", offered, Request(**{**fields, **options}), **{"seed": 7, "count": 1, **call})


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return [report async for report in upstream.run(asked)]


async def images(upstream: Upstream, asked: CallOrder) -> list[ImageMade]:
    """The pictures of a call."""
    return [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]


async def fault(upstream: Upstream, asked: CallOrder) -> UpstreamFault:
    """The fault that a call must end with; it shows the key nowhere."""
    with pytest.raises(UpstreamFault) as caught:
        await reports(upstream, asked)
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert KEY not in shown + repr(found.details)
    return found


def encoded(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The picture's file."""
    made = io.BytesIO()
    picture.save(made, format, **options)
    return made.getvalue()


def flat(colour: Any, size: tuple[int, int] = (1024, 1024), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return encoded(Image.new(mode, size, colour), format)


def half_white(size: tuple[int, int]) -> Image.Image:
    """A mask whose left half is to be edited."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def pixel(picture: Picture, x: float = 0.5, y: float = 0.5) -> tuple[int, ...]:
    """A pixel of a picture, at a place between 0 and 1."""
    with Image.open(io.BytesIO(picture.content)) as opened:
        colour = opened.convert("RGB").getpixel((int(x * opened.width), int(y * opened.height)))
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


def near(colour: tuple[float, ...], other: tuple[float, ...], by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))


async def until(question: Callable[[], bool]) -> None:
    """Wait for something that a real socket brings; there is no other sign of it."""
    async with asyncio.timeout(2):
        while not question():  # a server's own state, which has no event
            await asyncio.sleep(0.005)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_server(serve: Serve) -> AsyncIterator[str]:
    """A server that does with its connections what the stand-in never would."""

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """The head of a request, its body read and dropped."""
    head = await reader.readuntil(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"content-length: ")
    await reader.readexactly(int(rest.split()[0]) if found else 0)
    return head


def answering(
    body: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None, heads: list[bytes] | None = None
) -> Serve:
    """Answer every request like this, and close; the heads that come are kept in `heads`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_request(reader)
        if heads is not None:
            heads.append(head)
        lines = [
            f"HTTP/1.1 {status}",
            "Connection: close",
            *(f"{name}: {one}" for name, one in (headers or {}).items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    return serve
