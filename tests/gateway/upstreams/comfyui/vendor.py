"""The adapter opened, what is asked of it, and how to look at what comes."""

import asyncio
import io
import random
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from PIL import Image

from gateway.core.models import Model
from gateway.core.normal import InputImage, Request
from gateway.core.reports import ImageMade, PreviewMade, Report, StepDone, UpstreamFault
from gateway.ports import CallOrder, Upstream
from gateway.upstreams.comfyui import ComfyUI
from load.upstreams.comfyui import ComfyUI as Server
from load.upstreams.comfyui import Moment
from protocol.ids import make_ulid
from tests import pictures

TOKEN = "bearer-secret-of-the-tests-0123456789"
CHANCE = random.Random(5)


class StandIn(Server):
    """A server with previews that cost little time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"preview_size": 64, **options})


@asynccontextmanager
async def adapter(base_url: str, *, refresh: bool = True, **options: Any) -> AsyncIterator[ComfyUI]:
    """An open adapter that has looked around, quick to doubt."""
    given = {"name": "comfy", "token": TOKEN, "quiet_seconds": 0.15, "reconnect_seconds": 0.3, **options}
    upstream = ComfyUI(base_url=base_url, **given)
    await upstream.open()
    try:
        if refresh:
            await upstream.refresh()
        yield upstream
    finally:
        await upstream.close()


def model_for(upstream: Upstream, task: str, model: str | None = None) -> Model:
    """The first model that can do the task, or the one of that name."""
    return next(one for one in upstream.models if task in one.tasks and model in (None, one.id))


def order(upstream: Upstream, task: str = "txt2img", **options: Any) -> CallOrder:
    """An order of a small picture, with what is named changed."""
    model = model_for(upstream, task, options.pop("model", None))
    inputs: dict[str, bytes] = options.pop("inputs", {})
    details: dict[str, dict[str, Any]] = options.pop("details", {})
    fields: dict[str, Any] = {
        "task": task,
        "model": model.id,
        "prompt": "a lamp",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 7.0,
        "seed": 7,
        "n": 1,
        "strength": 0.65 if "init" in inputs and task not in ("outpaint", "upscale") else None,
        "inputs": tuple(
            InputImage(slot.partition("-")[0], "sha256:x", 64, 64, slot=slot, **details.get(slot, {}))
            for slot in inputs
        ),
    }
    call = {name: options.pop(name) for name in ("count", "sent", "seed", "noted", "id") if name in options}
    request = Request(**{**fields, **options})
    given = {"id": make_ulid(1_800_000_000_000, CHANCE), "seed": 7, "count": 1, **call}
    return CallOrder(model=model, request=request, inputs=inputs, **given)


async def reports(upstream: Upstream, asked: CallOrder) -> list[Report]:
    """All reports of a call."""
    async with aclosing(upstream.run(asked)) as run:
        return [report async for report in run]


async def resumed(upstream: Upstream, asked: CallOrder, handle: str | None = None) -> list[Report]:
    """All reports of a call that is gone on with."""
    async with aclosing(upstream.resume(asked, handle)) as run:
        return [report async for report in run]


async def picture(upstream: Upstream, asked: CallOrder) -> Image.Image:
    """The one picture of a call."""
    return opened(await reports(upstream, asked))


def opened(told: list[Report]) -> Image.Image:
    """The one picture among reports."""
    (made,) = [report for report in told if isinstance(report, ImageMade)]
    image = Image.open(io.BytesIO(made.picture.content))
    image.load()
    return image.convert("RGB")


def steps(told: list[Report]) -> list[tuple[int, int]]:
    """The steps among reports."""
    return [(report.step, report.steps) for report in told if isinstance(report, StepDone)]


def previews(told: list[Report]) -> list[tuple[int, int]]:
    """The steps of the previews among reports."""
    return [(report.step, report.steps) for report in told if isinstance(report, PreviewMade)]


async def fault(upstream: Upstream, asked: CallOrder, *, resume: bool = False) -> UpstreamFault:
    """The fault that a call must end with; it shows neither the token nor the server's paths."""
    with pytest.raises(UpstreamFault) as caught:
        await (resumed(upstream, asked) if resume else reports(upstream, asked))
    found = caught.value
    shown = "".join(traceback.format_exception(found))
    context: BaseException | None = found
    while context is not None:
        shown += repr(context) + str(context)
        context = context.__cause__ or context.__context__
    assert TOKEN not in shown + repr(found.details)
    assert "/srv/" not in repr(found.details) + str(found)
    return found


class Held:
    """Stops the stand-in's work before a step until it may go on; `hold` is the stand-in's argument."""

    def __init__(self, step: int | None = 2, kind: str = "KSampler") -> None:
        self._step, self._kind = step, kind
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def hold(self, moment: Moment) -> None:
        if moment.step == self._step and moment.class_type == self._kind:
            self.reached.set()
            await self.go_on.wait()


async def until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.002)


def asked_for(standin: StandIn, path: str, method: str = "GET") -> int:
    """How often a path was asked for."""
    return sum(one.method == method and one.path.startswith(path) for one in standin.requests)


def flat(colour: Any, size: tuple[int, int] = (64, 64), mode: str = "RGB", format: str = "PNG") -> bytes:
    """The file of a picture of one colour."""
    return pictures.flat(colour, size, mode, format)


def near(colour: Any, other: tuple[float, ...], by: float = 2) -> bool:
    """Whether no channel differs by more."""
    return all(abs(one - two) <= by for one, two in zip(colour, other, strict=True))
