"""The adapter opened, what is asked of it, and how long to wait for the server that it is asked at."""

import asyncio
import io
import random
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.normal import InputImage
from gateway.core.params import Params
from gateway.core.reports import ImageMade, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.core.requests import normalise
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.a1111 import A1111
from load.upstreams import a1111 as standins
from load.upstreams.a1111 import words_of
from load.upstreams.pictures import colour_of
from tests import pictures

StandIn = standins.A1111
USER, PASSWORD = "painter", "a-password-of-the-tests-0123456789"
CAT = colour_of(7, words_of("a cat"))
"""What is painted for the orders below."""
INIT = (200, 100, 0)


@asynccontextmanager
async def adapter(base_url: str, *, refreshes: bool = True, **options: Any) -> AsyncIterator[A1111]:
    """An open adapter that looks often."""
    upstream = A1111(**{"name": "webui", "base_url": base_url, "poll_seconds": 0.005, **options})
    await upstream.open()
    try:
        if refreshes:
            await upstream.refresh()
        yield upstream
    finally:
        await upstream.close()


def order(
    upstream: Upstream, task: str = "txt2img", inputs: Mapping[str, Any] | None = None, **options: Any
) -> CallOrder:
    """An order of a small picture in its normal form; `inputs` are contents by role, or pairs with what goes along."""
    call = {name: options.pop(name) for name in ("id", "count", "sent", "noted", "seed") if name in options}
    given = [(role, *(one if isinstance(one, tuple) else (one, {}))) for role, one in (inputs or {}).items()]
    images = [_image(role, content, more) for role, content, more in given]
    fields: dict[str, Any] = {"prompt": "a cat", "seed": 7, "steps": 10, "n": call.get("count", 1)}
    if task in ("txt2img", "img2img", "inpaint", "controlnet"):
        fields |= {"width": 64, "height": 64}
    if "prompts" in options:
        del fields["prompt"]
    if task == "upscale":
        fields = {}
    params = msgspec.convert({**fields, **options}, Params)
    model = upstream.models[0]
    request = normalise(task, params, images, model, random.Random(1))
    contents = {role: content for role, content, _ in given}
    return CallOrder(
        **{"id": "01KAN0CALL", "seed": 7, "count": 1, **call}, model=model, request=request, inputs=contents
    )


def _image(role: str, content: bytes, more: Mapping[str, Any]) -> InputImage:
    facts = measure(content)
    return InputImage(role, f"asset-{role}", facts.width, facts.height, **more)


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return [report async for report in upstream.run(asked)]


async def images(upstream: Upstream, asked: CallOrder) -> list[ImageMade]:
    """The pictures of a call."""
    return [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]


def steps(told: list[Report]) -> list[tuple[int, int]]:
    """The steps among reports."""
    return [(report.step, report.steps) for report in told if isinstance(report, StepDone)]


def previews(told: list[Report]) -> list[PreviewMade]:
    """The previews among reports."""
    return [report for report in told if isinstance(report, PreviewMade)]


def is_in_order(told: list[Report]) -> bool:
    """Whether the work begins once, first of all, and its pictures come last."""
    kinds = [type(report) for report in told]
    made = kinds.count(ImageMade)
    return kinds.count(WorkBegun) == 1 and kinds[0] is WorkBegun and kinds[len(kinds) - made :] == [ImageMade] * made


async def fault(upstream: Upstream, asked: CallOrder | None = None) -> UpstreamFault:
    """The fault that a call must end with; it shows no secret."""
    with pytest.raises(UpstreamFault) as caught:
        await reports(upstream, asked or order(upstream))
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert PASSWORD not in shown + repr(found.details)
    return found


def flat(colour: Any, size: tuple[int, int] = (64, 64), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return pictures.flat(colour, size, mode, format)


def pixel(image: ImageMade | PreviewMade, at: tuple[int, int] = (1, 1)) -> tuple[int, ...]:
    """A pixel of a picture."""
    with Image.open(io.BytesIO(image.picture.content)) as opened:
        colour = opened.convert("RGB").getpixel(at)
    assert isinstance(colour, tuple)
    return tuple(int(value) for value in colour)


def near(colour: tuple[int, ...], other: tuple[float, ...], by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))


def body(standin: StandIn, operation: str) -> Any:
    """The body of the latest request of a kind."""
    return next(one.json for one in reversed(standin.requests) if one.call.operation == operation)


def asked_for(standin: StandIn, operation: str) -> int:
    """How many requests of a kind came."""
    return sum(call.operation == operation for call in standin.log)


async def until(fits: Callable[[], bool]) -> None:
    """Wait until the stand-in, which runs in this loop, has got there."""
    async with asyncio.timeout(5):
        while not fits():
            await asyncio.sleep(0.001)
