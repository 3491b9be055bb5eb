"""What adapters that speak HTTP share: a body that knows when it is gone, a task beside a generator, Retry-After."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from gateway.ports import CallOrder

_Made = TypeVar("_Made")
_PIECE: Final = 64 * 1024
"""Bytes. aiohttp's writer waits for the socket once so much is pending."""


class TrackedBody(Payload):
    """A request body that calls `gone` once its last byte was handed to the transport.

    Not a `TraceConfig`: aiohttp calls `on_request_chunk_sent` before it writes the chunk, and holds the head back until
    then, so a large body would count as sent while all of it still lies here; `UploadTracker.upload_complete` settles
    only with the answer. Written in pieces: the writer waits for the socket after each, so that when `gone` is called
    at most the last piece is still in this process.
    """

    def __init__(self, content: bytes, content_type: str, gone: Callable[[], None]) -> None:
        super().__init__(content, content_type=content_type)
        self._size = len(content)
        self._content = content
        self._gone = gone

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        view = memoryview(self._content)
        for start in range(0, len(view), _PIECE):
            await writer.write(view[start : start + _PIECE])
        await writer.drain()
        self._gone()

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        assert content_length in (None, len(self._content)), "nothing overrides our Content-Length"
        await self.write(writer)


class Departure:
    """Called when the last byte of an order's request has left: tells it once, and then does what `then` was given.

    Nothing sends a POST twice, but the port's promise that `sent` is called once should not rest on that.
    """

    def __init__(self, order: CallOrder) -> None:
        self._order = order
        self._then: Callable[[], None] = lambda: None
        self.happened = False

    def __call__(self) -> None:
        if not self.happened:
            self.happened = True
            self._order.sent()
            self._then()

    def then(self, act: Callable[[], None]) -> None:
        """Do something besides; say it before the request can have begun."""
        self._then = act


class Beside(Generic[_Made]):
    """Runs `work` in a task beside an async generator's body, from entering the block to leaving it.

    `async with Beside(work) as beside`, then `await beside.result()`. Leaving the block early, also by the generator's
    `aclose`, cancels the work and waits for its end. A bare `TaskGroup` must not enclose a `yield`: when its child
    fails it cancels the task that iterates, wherever that is, and it wraps the generator's `GeneratorExit` in a group.
    So the child here never fails, and the group sees no exception of the block's.
    """

    def __init__(self, work: Coroutine[object, object, _Made], name: str) -> None:
        self._work = work
        self._name = name
        self._group = asyncio.TaskGroup()
        self._moved = asyncio.Event()
        self._outcome: tuple[_Made] | Exception | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._task = self._group.create_task(self._keep(), name=self._name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await self._group.__aexit__(None, None, None)
        # A task that is cancelled before its first step leaves its coroutine unstarted, which Python warns of.
        self._work.close()

    def move(self) -> None:
        """Wake `moved`: the work has come to where its owner waits for it."""
        self._moved.set()

    async def moved(self) -> None:
        """Wait for `move`, or for the work's end."""
        await self._moved.wait()

    async def result(self) -> _Made:
        """Wait for the work's end and return its result, or raise what it raised."""
        await asyncio.wait([self._task])
        assert self._outcome is not None, "only `__aexit__` cancels the work"
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome[0]

    async def _keep(self) -> None:
        try:
            self._outcome = (await self._work,)
        except Exception as error:  # noqa: BLE001 - here a task ends; `result` raises it in the owner's
            self._outcome = error
        finally:
            self._moved.set()


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long a `Retry-After` asks to wait, in either of its forms; None = there is none that can be read.

    A date is measured against the answer's own `Date`, so that the two clocks' difference does not count; without that
    header it can't be used. The number may be absurdly large: who waits sets the limit.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:20]), 1e12)
    until, sent = _instant(text), _instant(headers.get("Date", ""))
    if until is None or sent is None:
        return None
    return max(0.0, until - sent)


def _instant(text: str) -> float | None:
    try:
        instant = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return instant if math.isfinite(instant) else None
