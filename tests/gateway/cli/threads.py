"""What a command speaks to, in a thread of its own: the command has the main thread, for Ctrl-C's sake."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def in_a_thread(make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Enter what `make` gives on a loop of its own, and leave it at the end; raises what entering it raised."""
    made: list[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = []
    failed: list[BaseException] = []
    ready = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        async with make() as one:
            made.append((one, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - the test raises it
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        if made:
            yield made[0][0]
    finally:
        if made:
            made[0][1].call_soon_threadsafe(made[0][2].set)
        thread.join()
        if failed:
            raise failed[0]
