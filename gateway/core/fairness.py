"""Fair queueing between tenants: start-time fair queueing on two numbers a tenant, so that it works on any node.

Each tenant is a lane with a virtual time; of the lanes with work the one with the smallest goes next, and is charged
what the job costs divided by its weight. So lanes that always have work get shares like their weights. A lane that was
idle saves nothing up: it comes in where the newest claim began, which no lane with waiting work is behind.
"""


def enter(vtime: float, newest_start: float) -> float:
    """Return the virtual time of a lane that had nothing waiting and now has; `newest_start` is the newest claim's."""
    return max(vtime, newest_start)


def charge(vtime: float, price_micros: int, weight: float) -> float:
    """Return a lane's virtual time after one claim of a job of `price_micros` (free work counts as 1)."""
    return vtime + max(1, price_micros) / weight
