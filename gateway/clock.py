"""The one home of time. Everything else is given a clock."""

import time


class SystemClock:
    """See `gateway.ports.Clock`."""

    def now(self) -> float:
        return time.monotonic()

    def time_ms(self) -> int:
        return time.time_ns() // 1_000_000
