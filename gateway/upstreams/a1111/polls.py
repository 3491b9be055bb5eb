"""Looking at a server of the WebUI family while it works for us, and stopping it.

What goes wrong with a look is nobody's fault and no sign of the work's: the answer to the request itself says what
became of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from gateway.core.reports import UpstreamFault, WorkBegun
from gateway.ports import CallOrder
from gateway.upstreams.a1111.progress import (
    Attribution,
    Board,
    Follow,
    ServerProgress,
    Standing,
    TaskProgress,
    read_server,
    read_task,
)
from gateway.upstreams.a1111.wire import task_id
from gateway.upstreams.vendor import INLINE_BYTES, Ask, Vendor

_T = TypeVar("_T")
_ASK_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 0.8
"""For stopping work: asking whose turn it is, interrupting, waiting for the unfinished picture."""
_STOP_STEP_SECONDS: Final = 0.05
_MOST_POLL_BYTES: Final = 16 * 1024 * 1024
_MOST_STRAYS: Final = 8
NOBODY: Final = "safelight-nobody"
"""A task's id that is nobody's: an empty one would match an idle server and get the last user's preview."""


async def aside(size: int, work: Callable[[], _T]) -> _T:
    """Return what `work` makes of so many bytes, in a thread if they are many."""
    return work() if size <= INLINE_BYTES else await asyncio.to_thread(work)


class Lookout:
    """The questions that a server answers while it works, and its one command."""

    def __init__(self, vendor: Vendor) -> None:
        self._vendor = vendor
        self._strays: deque[str] = deque(maxlen=_MOST_STRAYS)

    async def ask_task(self, task: str, seen: int = -1, *, images: bool = False) -> TaskProgress | None:
        """Ask how far a task is; `None` if the server does not tell of tasks. Raises `UpstreamFault`."""
        body = msgspec.json.encode({"id_task": task, "id_live_preview": seen, "live_preview": images})
        ask = Ask("POST", "/internal/progress", body, seconds=_ASK_SECONDS, most=_MOST_POLL_BYTES)
        answer = await self._vendor.ask(ask)
        return read_task(answer.body) if answer.status == 200 and answer.is_whole else None

    async def task(self, task: str, seen: int = -1, *, images: bool = False) -> TaskProgress | None:
        """Ask how far a task is; `None` if the server does not tell."""
        try:
            return await self.ask_task(task, seen, images=images)
        except UpstreamFault:
            return None

    async def server(self, *, images: bool = False) -> ServerProgress | None:
        """Ask how far whatever runs is; `None` if the server does not tell."""
        query = {"skip_current_image": "false" if images else "true"}
        ask = Ask("GET", "/sdapi/v1/progress", query=query, seconds=_ASK_SECONDS, most=_MOST_POLL_BYTES)
        try:
            answer = await self._vendor.ask(ask)
        except UpstreamFault:
            return None
        return read_server(answer.body) if answer.status == 200 and answer.is_whole else None

    async def interrupt(self) -> None:
        """Stop whatever runs."""
        with suppress(UpstreamFault):
            await self._vendor.ask(Ask("POST", "/sdapi/v1/interrupt", seconds=_STOP_SECONDS, whole=()))

    def remember(self, task: str) -> None:
        """Note a task that waits in the server though nobody wants it any more."""
        self._strays.append(task)

    async def stop_strays(self) -> None:
        """Interrupt a task nobody wants if its turn has come, and forget those that are over."""
        for task in tuple(self._strays):
            told = await self.task(task)
            if told is None or told.standing is Standing.WAITING:
                continue
            self._strays.remove(task)
            if told.standing is Standing.RUNNING:
                await self.interrupt()


class Call:
    """One request that the server works on, as far as it can be seen from outside.

    `path` is that of the request. `by_task` is whether the server tells of tasks; where not, `before` is what it told
    before the request went out.
    """

    def __init__(
        self,
        lookout: Lookout,
        order: CallOrder,
        path: str,
        follow: Follow,
        *,
        by_task: bool,
        before: ServerProgress | None,
    ) -> None:
        self.board = Board()
        self.sent = asyncio.Event()
        self._lookout = lookout
        self._order = order
        self._is_blind = order.request.task == "upscale"
        """Enlarging has no task's id, and no steps."""
        self._by_task = by_task and not self._is_blind
        self._task = task_id(order)
        self._attribution = Attribution(path, before)
        self._follow = follow

    def note_sent(self) -> None:
        """The request's last byte has left."""
        if not self.sent.is_set():
            self.sent.set()
            self._order.sent()
            if self._is_blind:
                self.board.put(WorkBegun(self._order.request.steps))

    # --- looking ---

    async def poll(self, every_seconds: float) -> None:
        """Put on the board what is seen of the work, until cancelled."""
        await self.sent.wait()
        while not self._is_blind:
            await (self._look_at_task() if self._by_task else self._look_at_server())
            await asyncio.sleep(every_seconds)

    async def _look_at_task(self) -> None:
        told = await self._lookout.task(self._task, self._follow.seen_preview, images=self._wants_images)
        if told is None or told.standing is not Standing.RUNNING:
            await self._lookout.stop_strays()
            return
        self.board.put(*await aside(len(bytes(told.live_preview)), lambda: self._follow.task(told)))

    async def _look_at_server(self) -> None:
        told = await self._seen()
        if told is None:
            return
        if self._wants_images and self._follow.is_new(told):
            # Each picture costs the server a decode, so it is asked for only where there may be another one.
            told = await self._seen(images=True) or told
        self.board.put(*await aside(len(bytes(told.current_image)), lambda: self._follow.server(told)))

    async def _seen(self, *, images: bool = False) -> ServerProgress | None:
        """What the server tells of our work; `None` while it tells nothing, or of another's."""
        told = await self._lookout.server(images=images)
        return told if told is not None and self._attribution.is_ours(told) else None

    @property
    def _wants_images(self) -> bool:
        return self._order.model.previews

    # --- stopping ---

    async def stop(self) -> None:
        """Interrupt the work if it is ours that runs, and wait a moment for its answer; at most a second.

        Where it waits behind other work it is remembered: the next call stops it when its turn has come.
        """
        is_lost = self.board.closed.is_set()
        standing = Standing.NOWHERE
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while True:
                    standing = await self._standing()
                    if standing is Standing.RUNNING:
                        await self._lookout.interrupt()
                        await self.board.closed.wait()
                        return
                    if standing is Standing.OVER or is_lost or await self._ends_within(_STOP_STEP_SECONDS):
                        break
        if standing in (Standing.NOWHERE, Standing.WAITING) and self._by_task and (is_lost or self._is_open):
            self._lookout.remember(self._task)

    @property
    def _is_open(self) -> bool:
        return not self.board.closed.is_set()

    async def _standing(self) -> Standing:
        if self._by_task:
            told = await self._lookout.task(self._task)
            return Standing.NOWHERE if told is None else told.standing
        server = await self._lookout.server()
        if server is None or server.is_idle:
            return Standing.NOWHERE
        if self._is_blind:
            is_ours = (server.state.job or "").casefold().startswith("extra")
        else:
            is_ours = self._attribution.is_ours(server)
        return Standing.RUNNING if is_ours else Standing.WAITING

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.board.closed.wait()
        return self.board.closed.is_set()
