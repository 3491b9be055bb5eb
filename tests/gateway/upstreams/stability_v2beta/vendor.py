"""What the tests of the v2beta adapter share: orders as the gateway makes them, faults looked through for the key."""

import asyncio
import io
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from PIL import Image

from gateway.core.images import measure
from gateway.core.normal import InputImage
from gateway.core.params import decode_params
from gateway.core.reports import ImageMade, Report, UpstreamFault
from gateway.core.requests import normalise
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.stability_v2beta import StabilityV2Beta
from gateway.upstreams.stability_v2beta.models import model_of, prices_of

KEY = "sk-secret-key-of-the-tests-0123456789"
INIT = (200, 100, 0)
Colour = tuple[float, ...]

CONTROLS = ("sketch", "structure", "style")


async def noted_nowhere(_: str) -> None:
    """Take no note of an id."""


@asynccontextmanager
async def adapter(base_url: str, **options: Any) -> AsyncIterator[StabilityV2Beta]:
    """An open adapter that polls without patience."""
    settings = {"poll_seconds": 0.02, "lockout_seconds": 0.05, **options}
    upstream = StabilityV2Beta(name="stability", base_url=base_url, api_key=KEY, **settings)
    await upstream.open()
    try:
        yield upstream
    finally:
        await upstream.close()


def order(
    task: str = "txt2img",
    model: str = "stable-image-core",
    inputs: Mapping[str, bytes] | None = None,
    used: Mapping[str, Any] | None = None,
    *,
    call: Mapping[str, Any] | None = None,
    **params: Any,
) -> CallOrder:
    """An order as it comes of a client's params: checked, brought to the normal form.

    `inputs` are files by role, `used` is how the control or reference among them is used, `call` are the order's own.
    """
    offered = model_of("stability", model, prices_of({}), 4)
    files = dict(inputs or {})
    images = [_input(role, content, used or {}) for role, content in files.items()]
    names = offered.tasks.get(task, frozenset())
    given: dict[str, Any] = {"seed": 7} if "seed" in names else {}
    if "prompt" in names and task != "upscale" and "prompts" not in params:
        given["prompt"] = "a lamp"
    wanted = {name: value for name, value in {**given, **params}.items() if value is not None}
    request = normalise(task, decode_params(msgspec.json.encode(wanted)), images, offered, random.Random(1))
    own: dict[str, Any] = {"seed": request.seed, "count": 1, "noted": noted_nowhere, **(call or {})}
    return CallOrder("call-1", offered, request, inputs=files, **own)


def _input(role: str, content: bytes, used: Mapping[str, Any]) -> InputImage:
    try:
        facts = measure(content)
        width, height = facts.width, facts.height
    except Exception:  # noqa: BLE001 - what is no image has a size all the same, for the tests of just that
        width, height = 64, 64
    own = used if role in (*CONTROLS, "reference") else {}
    return InputImage(role, role, width, height, **own)


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    return [report async for report in upstream.run(asked)]


async def image(upstream: Upstream, asked: CallOrder) -> ImageMade:
    """The picture of a call."""
    (made,) = [report for report in await reports(upstream, asked) if isinstance(report, ImageMade)]
    return made


async def fault(work: Awaitable[object]) -> UpstreamFault:
    """The fault that some work must end with; it shows the key nowhere."""
    with pytest.raises(UpstreamFault) as caught:
        await work
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


def flat(colour: Any = INIT, size: tuple[int, int] = (64, 64), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return encoded(Image.new(mode, size, colour), format)


def opened(made: ImageMade, mode: str = "RGB") -> Image.Image:
    """A finished picture, decoded; it must be what its report says."""
    with Image.open(io.BytesIO(made.picture.content)) as picture:
        assert ((picture.format or "").lower(), *picture.size) == (
            made.picture.format,
            made.picture.width,
            made.picture.height,
        )
        return picture.convert(mode)


def pixel(picture: Image.Image, at: tuple[int, int] = (1, 1)) -> Colour:
    """A pixel's channels."""
    colour = picture.getpixel(at)
    assert isinstance(colour, tuple)
    return tuple(float(value) for value in colour)


def near(colour: Colour, other: Colour, by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """The colour so far from the first to the second."""
    return tuple(one + (two - one) * share for one, two in zip(first, second, strict=True))


async def until(question: Callable[[], bool]) -> None:
    """Wait for something that a real socket brings; there is no other sign of it."""
    async with asyncio.timeout(2):
        while not question():  # a server's own state, which has no event
            await asyncio.sleep(0.005)
