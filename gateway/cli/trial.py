"""The shortest picture that an upstream makes: the smallest size and the fewest steps of its first txt2img model."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.builders import accounts_of
from gateway.cli.basics import FAILED
from gateway.cli.examine import in_words
from gateway.cli.job import Course
from gateway.cli.show import Display
from gateway.cli.trouble import Trouble
from gateway.clock import SystemClock
from gateway.config import Upstream as Settings
from gateway.core.models import Model, Sizes
from gateway.core.normal import Request
from gateway.core.params import Params
from gateway.core.reports import ImageMade, Picture, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.core.requests import normalise
from gateway.ports import CallOrder, Upstream
from protocol.errors import ClientFault
from protocol.ids import make_ulid
from protocol.messages import Progress, Started
from protocol.replica_effects import Event

TASK: Final = "txt2img"
_PROMPT: Final = "a lighthouse at dusk"
_JOB: Final = "trial"


@dataclass(frozen=True, slots=True)
class Trial:
    """A picture that was made, and how."""

    model: str
    picture: Picture
    seed: int
    seconds: float
    course: Course


def first_model(models: Sequence[Model]) -> Model | None:
    """Return the model that a trial takes."""
    return next((model for model in models if TASK in model.tasks), None)


def shortest(model: Model, chance: random.Random) -> Request:
    """Return the least that the model can be asked for. Raises `ClientFault` where it contradicts itself."""
    width, height = _smallest(model.sizes_of(TASK))
    least = {"prompt": _PROMPT, "width": width, "height": height, "steps": model.steps[0]}
    params = {name: value for name, value in least.items() if name in model.tasks[TASK]}
    return normalise(TASK, Params(**params), (), model, chance)  # type: ignore[arg-type]  # each is of its name's type


def _smallest(sizes: Sizes) -> tuple[int, int]:
    if sizes.listed:
        return min(sizes.listed, key=lambda size: size[0] * size[1])
    edge = -(-sizes.smallest // sizes.multiple_of) * sizes.multiple_of
    return edge, edge


async def draw(name: str, settings: Settings, account: str, model: Model, display: Display) -> Trial:
    """Have the picture made, shown as it comes; raises `Trouble`."""
    chance = random.SystemRandom()
    try:
        request = shortest(model, chance)
    except ClientFault as fault:
        raise Trouble(FAILED, f"{model.id} cannot be asked for the least that it offers: {fault}") from None
    order = CallOrder(make_ulid(SystemClock().time_ms(), chance), model, request, request.seed, 1)
    upstream = accounts_of(name, settings)[account]
    try:
        await upstream.open()
        with contextlib.suppress(UpstreamFault):
            # Some adapters know only from here how the model is to be asked for; what is wrong was told before.
            await upstream.refresh()
        return await _follow(upstream, order, display)
    except UpstreamFault as fault:
        raise Trouble(FAILED, f"no picture was made: {in_words(fault, settings)}") from None
    finally:
        await upstream.close()


async def _follow(upstream: Upstream, order: CallOrder, display: Display) -> Trial:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    course = Course(job=_JOB, is_welcome=True)
    made: ImageMade | None = None
    async with contextlib.aclosing(upstream.run(order)) as reports:
        async for report in reports:
            _take(report, order, course, display)
            if isinstance(report, ImageMade):
                made = report
    if made is None:
        raise Trouble(FAILED, "the upstream ended without a picture; see its own log")
    return Trial(order.model.id, made.picture, made.seed, loop.time() - begun, course)


def _take(report: Report, order: CallOrder, course: Course, display: Display) -> None:
    match report:
        case WorkBegun(steps=steps):
            _show(Started(job=_JOB, seq=1, time_ms=0, attempt=1, model=order.model.id, steps=steps), course, display)
        case StepDone(phase=phase, step=step, steps=steps):
            ratio = step / steps if steps else 0.0
            _show(Progress(job=_JOB, phase=phase, step=step, steps=steps, ratio=ratio), course, display)
        case PreviewMade():
            course.previews += 1
        case ImageMade():
            pass


def _show(event: Event, course: Course, display: Display) -> None:
    course.apply(event)
    display.show(event, course)
