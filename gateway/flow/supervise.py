"""The one home of tasks: each is named, held, and its failure told. Nothing else in the gateway starts a task."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Report = Callable[[str, BaseException], None]


class Supervisor:
    """Holds tasks until they end; `stop` cancels what is left and waits for it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        """Where failures are told."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` as a task of that name; a failure nobody awaits is reported."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, make: Callable[[], Coroutine[Any, Any, None]], name: str, pause_seconds: float = 1.0) -> None:
        """Run what `make` returns for ever: if it fails, report, pause, and make it again."""
        self.start(self._again(make, name, pause_seconds), name)

    async def stop(self) -> None:
        """Cancel every task and wait until they have ended."""
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _again(self, make: Callable[[], Coroutine[Any, Any, None]], name: str, pause_seconds: float) -> None:
        while True:
            try:
                await make()
                return
            except Exception as error:  # noqa: BLE001 - a task ends here; it is told, and begun again
                self.report(name, error)
                await asyncio.sleep(pause_seconds)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report(task.get_name(), error)


async def uninterrupted(work: Awaitable[T]) -> T:
    """Await `work` to its end even if the caller is cancelled meanwhile; the cancellation follows after it.

    For effects that must be known to have happened or not, such as a ledger write: a cancelled caller would not know.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue  # told once is enough; the work is short
        if not task.cancelled():
            task.exception()  # taken note of: the cancellation is what the caller must hear of
        raise
