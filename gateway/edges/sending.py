"""Large answers on their way out: handed to the socket in slices, and bounded over all who read them.

A reader may take what it is sent as slowly as the transport allows (see `gateway.edges.socket.BoundedHttp`), and its
answer lies in memory for as long. So the answers under way are counted, and where they are too much together, those
that have been under way longest are cut: whoever keeps up is done by then, and a job's result can be fetched again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLICE: Final = 262_144
"""Bytes that are handed to the socket at once: what a slow reader has not taken lies there a second time."""
MOST_UNSENT: Final = 268_435_456
"""Bytes of answers over `SLICE` that may be under way at once, which is eight of the very largest."""


class Unsent:
    """The large answers under way, the oldest first."""

    def __init__(self, most: int = MOST_UNSENT) -> None:
        self._most = most
        self._answers: dict[object, tuple[int, Callable[[], None]]] = {}
        self.bytes = 0

    @contextlib.contextmanager
    def holding(self, size: int, cut: Callable[[], None]) -> Iterator[None]:
        """Count an answer for as long as the context lasts; `cut` ends it if there is no room for a newer one."""
        answer = object()
        while self._answers and self.bytes + size > self._most:
            self._cut_oldest()
        self._answers[answer] = (size, cut)
        self.bytes += size
        try:
            yield
        finally:
            self._forget(answer)

    def _cut_oldest(self) -> None:
        oldest, (_, cut) = next(iter(self._answers.items()))
        self._forget(oldest)
        cut()

    def _forget(self, answer: object) -> None:
        size, _ = self._answers.pop(answer, (0, None))
        self.bytes -= size


def in_slices(app: Any, unsent: Unsent) -> ASGIApp:
    """Return the application with its large answers sent in slices, between which others have their turn."""

    async def sliced(scope: Scope, receive: Receive, send: Send) -> None:
        async def put(message: Message) -> None:
            if len(message.get("body", b"")) <= SLICE:
                await send(message)
                return
            with unsent.holding(len(message["body"]), scope["safelight.abort"]):
                await _put(message, send)

        await app(scope, receive, put)

    return sliced


async def _put(message: Message, send: Send) -> None:
    body, more = memoryview(message["body"]), message.get("more_body", False)
    for start in range(0, len(body), SLICE):
        is_last = start + SLICE >= len(body)
        await send({**message, "body": body[start : start + SLICE], "more_body": more or not is_last})
        await asyncio.sleep(0)
