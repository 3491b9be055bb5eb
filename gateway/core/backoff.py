"""How long to wait before the next attempt: full jitter, unless the vendor said how long."""

import math
import random


def wait_seconds(
    attempt: int, base_seconds: float, cap_seconds: float, chance: random.Random, retry_after: float | None = None
) -> float:
    """Return how many seconds to wait after attempt number `attempt` (from 1) has failed.

    Without `retry_after` it is drawn evenly from 0 to `base * 2 ** (attempt - 1)`, at most `cap`: the whole width, as
    many callers that failed together must not come back together. With it, never less than it, and up to `base` more.
    """
    if retry_after is not None:
        return max(0.0, retry_after) + chance.uniform(0, base_seconds)
    # 2.0 ** 1024 overflows, and nobody's cap is 2 ** 64 times his base.
    widest = math.ldexp(base_seconds, min(attempt - 1, 64))
    return chance.uniform(0, min(cap_seconds, widest))
