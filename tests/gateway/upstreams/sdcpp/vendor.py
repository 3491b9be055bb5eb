"""The adapter opened, and what is asked of it."""

import asyncio
import io
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from PIL import Image

from gateway.core.normal import InputImage, Request
from gateway.core.params import CONTROLS
from gateway.core.reports import ImageMade, Report, UpstreamFault
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.sdcpp import SdCpp, Terms
from load.upstreams.sdcpp import SdCpp as StandIn
from tests import pictures

KEY = "sk-secret-key-of-the-tests-0123456789"
CONTROLLED = Terms(controls=("canny",))


@asynccontextmanager
async def adapter(base_url: str, *, asked: bool = True, **options: Any) -> AsyncIterator[SdCpp]:
    """An open adapter that knows, unless not `asked`, what the server offers."""
    quick = {"poll_seconds": 0.005, "answer_seconds": 2.0, "patience_seconds": 0.3, "timeout_seconds": 5.0}
    upstream = SdCpp(**{"name": "home", "base_url": base_url, "api_key": KEY, **quick, **options})
    await upstream.open()
    try:
        if asked:
            await upstream.refresh()
        yield upstream
    finally:
        await upstream.close()


def order(upstream: SdCpp, task: str = "txt2img", **options: Any) -> CallOrder:
    """An order of a small picture, with what is named changed."""
    inputs: dict[str, bytes] = options.pop("inputs", {})
    fields: dict[str, Any] = {
        "task": task,
        "model": "tiny-sd1",
        "prompt": "a lamp",
        "negative_prompt": "",
        "width": 128,
        "height": 128,
        "steps": 2,
        "guidance": 7.0,
        "seed": 7,
        "n": 1,
        "strength": 0.65 if "init" in inputs else None,
        "inputs": options.pop("request_inputs", tuple(input_image(slot) for slot in inputs)),
    }
    named = ("count", "sent", "seed", "noted", "model")
    call = {name: options.pop(name) for name in named if name in options}
    request = Request(**{**fields, **options})
    return CallOrder(**{"id": "call-1", "model": upstream.models[0], "request": request, "inputs": inputs, "seed": 7,
                        "count": 1, **call})  # fmt: skip


def input_image(slot: str, **options: Any) -> InputImage:
    """An input as the normal form has it."""
    control = {"weight": 1.0, "start": 0.0, "end": 1.0, "preprocessor": "none"} if slot in CONTROLS else {}
    return InputImage(**{"role": slot, "asset": "a", "width": 1, "height": 1, "slot": slot, **control, **options})


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return await all_of(upstream.run(asked))


async def all_of(run: AsyncGenerator[Report, None]) -> list[Report]:
    """What an iteration gives to its end."""
    async with aclosing(run) as reported:
        return [report async for report in reported]


async def one_more(run: AsyncGenerator[Report, None]) -> Report:
    """The next report."""
    return await anext(run)


async def images(upstream: Upstream, asked: CallOrder) -> list[ImageMade]:
    """The pictures of a call."""
    return [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]


async def fault(run: AsyncGenerator[Report, None]) -> UpstreamFault:
    """The fault that an iteration must end with; it shows the key nowhere."""
    with pytest.raises(UpstreamFault) as caught:
        await all_of(run)
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert KEY not in shown + repr(found.details)
    return found


def noting(into: list[str]) -> Callable[[str], Awaitable[None]]:
    """A `noted` that keeps what it is told."""

    async def noted(handle: str) -> None:
        into.append(handle)

    return noted


def operations(standin: StandIn) -> list[str]:
    """What the server was asked, each kind once, in order of its first time."""
    return list(dict.fromkeys(call.operation for call in standin.log))


def count(standin: StandIn, operation: str) -> int:
    """How often the server was asked for this."""
    return sum(call.operation == operation for call in standin.log)


def fields(standin: StandIn) -> dict[str, Any]:
    """What the latest order said."""
    return dict([call.fields for call in standin.log if call.operation == "img_gen"][-1] or {})


async def until(question: Callable[[], object]) -> None:
    """Wait for something that a real socket brings; there is no other sign of it."""
    async with asyncio.timeout(2):
        while not question():  # a server's own state, which has no event
            await asyncio.sleep(0.002)


def flat(colour: Any, size: tuple[int, int] = (128, 128), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return pictures.flat(colour, size, mode, format)


def half_white(size: tuple[int, int] = (128, 128)) -> Image.Image:
    """A mask whose left half is to be edited."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def pixel(image: ImageMade, at: tuple[int, int] = (5, 5)) -> tuple[int, ...]:
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
    at_work: set[asyncio.Task[object] | None] = set()

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    # Python 3.11 does not wait for them, and a connection that is still open at the loop's end is a warning.
    await asyncio.gather(*(task for task in at_work if task is not None))


def answering(*answers: tuple[str, bytes]) -> Serve:
    """Answer one request after the other like this, by status and body; the last answer stands for all after it."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split()
        await reader.readexactly(int(length[0]) if length else 0)
        status, body = left.pop(0) if len(left) > 1 else left[0]
        writer.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return serve
