"""How long the loop's callbacks take: CPU time of this thread around each, so that a busy machine is no fault."""

import asyncio
import asyncio.events
import contextlib
import gc
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
SLOW_SECONDS = 0.05


@dataclass(slots=True)
class Worst:
    """The slowest callback so far, and those over the limit, told by what they run."""

    seconds: float = 0.0
    slow: list[tuple[float, str]] = field(default_factory=list)


@contextlib.contextmanager
def watching_callbacks(slow_seconds: float = SLOW_SECONDS) -> Iterator[Worst]:
    """Measure every callback of the running loop while the context lasts; other threads' loops are left out."""
    loop, worst = asyncio.get_running_loop(), Worst()
    run = asyncio.events.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        if handle._loop is not loop:  # type: ignore[attr-defined]
            run(handle)
            return
        began = time.thread_time()
        run(handle)
        took = time.thread_time() - began
        worst.seconds = max(worst.seconds, took)
        if took > slow_seconds:
            worst.slow.append((round(took, 3), repr(handle)))

    # What lies in the test run's heap is not the gateway's garbage to walk over.
    gc.collect()
    gc.freeze()
    asyncio.events.Handle._run = measured  # type: ignore[assignment, method-assign]
    try:
        yield worst
    finally:
        asyncio.events.Handle._run = run  # type: ignore[method-assign]
        gc.unfreeze()


async def elsewhere(story: Coroutine[Any, Any, T]) -> T:
    """Run a client's part in a loop of its own, in another thread: its work must not count as the gateway's."""
    return await asyncio.to_thread(asyncio.run, story)
