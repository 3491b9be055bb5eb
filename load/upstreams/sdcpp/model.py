"""The model: it draws one order at a time, whatever the dialect it came in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable

import pybase64

from load.upstreams.faults import Garbage
from load.upstreams.sdcpp import answers, painting
from load.upstreams.sdcpp.orders import Order
from load.upstreams.sdcpp.settings import Settings, Work
from load.upstreams.sdcpp.tally import JobTally
from load.upstreams.standin import StandIn

NO_RESULTS = "generate_image returned no results"


class Failed(Exception):
    """The model made no picture."""


class Model:
    """Draws, and takes its time for it; `crash` is called when a script wants the server dead."""

    def __init__(
        self,
        standin: StandIn,
        settings: Settings,
        tally: JobTally,
        chance: random.Random,
        crash: Callable[[float | None], None],
    ) -> None:
        self._standin, self._settings, self._tally = standin, settings, tally
        self._chance, self._crash = chance, crash
        self._lock = asyncio.Lock()

    async def draw(self, work: Work) -> list[str]:
        """The pictures as base64, made while the model does nothing else; raises `Failed`."""
        settings = self._settings
        async with self._lock:
            self._standin.bill(work.exchange, 200, work.order.batch)
            await (settings.hold or self._take_time)(work)
            if work.happens("fail", "out_of_memory") or self._too_large(work.order):
                self._tally.failed += 1
                raise Failed(work.special_message or NO_RESULTS)
            paint = functools.partial(painting.paint, work.order, settings.shop, settings.picture_bytes)
            files = paint() if painting.is_plain(work.order) else await asyncio.to_thread(paint)
        self._tally.completed += 1
        fault = work.exchange.fault
        spoilt = answers.spoilt_picture(fault) if isinstance(fault, Garbage) else None
        return [spoilt or pybase64.b64encode(file).decode() for file in files]

    async def _take_time(self, work: Work) -> None:
        if work.happens("crash"):
            await asyncio.sleep(work.exchange.rule.service_seconds or 0.0)
            self._crash(work.special_seconds)
            # The crash ends this task.
            await asyncio.Event().wait()
        await asyncio.sleep(self._duration(work))
        if work.happens("stick"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(work.special_seconds):
                    await asyncio.Event().wait()

    def _duration(self, work: Work) -> float:
        if (scripted := work.exchange.rule.service_seconds) is not None:
            return scripted
        if work.happens("out_of_memory") or self._too_large(work.order):
            # Memory is asked for before the first step.
            return 0.0
        steps = work.order.steps * work.order.batch
        step = self._settings.step_seconds
        return self._standin.drawn_seconds() + sum(step.draw(self._chance) for _ in range(steps))

    def _too_large(self, order: Order) -> bool:
        width, height = order.final_size(self._settings.shop)
        return width * height > self._settings.shop.max_pixels
