"""Time that tests govern: a clock set by hand, and an event loop whose time jumps instead of passing.

`run_virtually(main)` runs an async function on a `VirtualTimeLoop`: whenever no callback is ready, its time jumps to
the next timer, so that a minute of waiting takes no time at all and happens in the same order each run. If nothing is
ready and no timer is set, nothing can ever happen again: it raises `Stuck`, which is how a lost wake-up shows.

Only timers and futures belong on such a loop. A socket or a thread takes real time, while virtual time runs away from
under it: every time-out would be over at once.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

_Made = TypeVar("_Made")


class Stuck(RuntimeError):
    """Something is waited for that no callback and no timer will bring."""


class ManualClock:
    """A clock that stands still until `advance`; fills the `Clock` port."""

    def __init__(self, now: float = 0.0, time_ms: int = 1_795_323_600_000) -> None:
        self._now = now
        self._behind_ms = time_ms - now * 1000

    def now(self) -> float:
        return self._now

    def time_ms(self) -> int:
        return int(self._now * 1000 + self._behind_ms)

    def advance(self, seconds: float) -> None:
        """Let `seconds` go by."""
        assert seconds >= 0, "time goes forward only"
        self._now += seconds


class LoopClock:
    """The running loop's time, as the `Clock` port."""

    def __init__(self, epoch_ms: int = 1_795_323_600_000) -> None:
        self._epoch_ms = epoch_ms

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def time_ms(self) -> int:
        return self._epoch_ms + int(self.now() * 1000)


class _Timed(Protocol):
    virtual_now: float


class _JumpingSelector(selectors.DefaultSelector):
    """Takes the loop's wish to wait for the time waited."""

    loop: _Timed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.loop.virtual_now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that begins at 0 s and never waits."""

    def __init__(self) -> None:
        self.virtual_now = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.virtual_now


def run_virtually(main: Callable[[], Coroutine[Any, Any, _Made]]) -> _Made:
    """Run `main()` to its end in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())
