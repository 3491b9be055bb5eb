"""One timer for a deadline that moves."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

from gateway.ports import Clock

SHORTEST_SECONDS: Final = 0.001
"""So that a deadline that stays over cannot take the loop for itself."""


class Alarm:
    """Calls `ring` at `deadline()`, and again at what that is then; whoever makes it earlier must call `rearm`.

    A deadline that moved to a later time rings too early once: to move a timer at each byte would cost more.
    """

    def __init__(self, clock: Clock, deadline: Callable[[], float], ring: Callable[[], None]) -> None:
        self._clock = clock
        self._deadline = deadline
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self.at = inf
        """When it rings next; infinite if not."""

    def rearm(self) -> None:
        """Ring at the deadline, unless it rings before that anyway."""
        deadline = self._deadline()
        if deadline >= self.at:
            return
        self.cancel()
        delay = max(SHORTEST_SECONDS, deadline - self._clock.now())
        self.at = deadline
        self._timer = asyncio.get_running_loop().call_later(delay, self._time_has_come)

    def cancel(self) -> None:
        """Ring no more, unless it is armed again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.at = None, inf

    def _time_has_come(self) -> None:
        self._timer, self.at = None, inf
        self._ring()
        self.rearm()
