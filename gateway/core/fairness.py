"""Fair queueing between tenants: start-time fair queueing on one number a tenant, so that it works on any node.

Each tenant is a lane with a virtual time; the lane that has received least goes next. A lane that was idle does not
save up: it is lifted to the least of the active lanes before it is charged.
"""


def charge(vtime: float, least_active: float, price_micros: int, weight: float) -> float:
    """Return a lane's virtual time after one claim of a job of `price_micros` (free work counts as 1)."""
    return max(vtime, least_active) + max(1, price_micros) / weight
