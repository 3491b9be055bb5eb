"""What the stand-ins of servers that can die share: breaking every connection, and the work that dies with them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web


async def break_connections(runner: web.AppRunner) -> None:
    """Stop listening and drop every connection where it stands, without a word; the runner is cleaned up later."""
    for site in list(runner.sites):
        await site.stop()
    for connection in list(runner.server.connections) if runner.server is not None else ():
        if connection.transport is not None:
            connection.transport.abort()


class Chores:
    """The tasks that a stand-in started, whose failures are nobody's surprise."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        """Start a task that lives until its end or the server's."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel all of it, and wait; a crash is one of the tasks, and must not stop itself."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # A client that left does not look at its failure; looked at here, it is not reported as forgotten.
            task.exception()
