"""How often an address may be wrong about a key, so that keys are not guessed and the ledger not asked in vain.

An attempt counts when it begins and comes back when the key was right, so that many at once are bounded as well. An
address of IPv6 counts by its /64, of which one household has 2^64 addresses (RFC 6177).
"""

import ipaddress
from collections import OrderedDict
from typing import Final

from gateway.core.limits import TokenBucket

BURST: Final = 20
PER_SECOND: Final = 1 / 6
MAX_ADDRESSES: Final = 10_000


class Attempts:
    """Counts attempts by address; bounded: of too many addresses the one that tried longest ago is forgotten."""

    def __init__(self, per_second: float = PER_SECOND, burst: int = BURST, max_addresses: int = MAX_ADDRESSES) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def begin(self, address: str, now: float) -> float:
        """Count an attempt and return 0, or change nothing and return for how many seconds there is none."""
        place = _place(address)
        bucket = self._buckets.pop(place, None) or TokenBucket(self._per_second, self._burst)
        if len(self._buckets) >= self._max_addresses:
            self._buckets.popitem(last=False)
        self._buckets[place] = bucket
        return bucket.take(now)

    def right(self, address: str) -> None:
        """Give an attempt back: the key was right."""
        bucket = self._buckets.get(_place(address))
        if bucket is not None:  # else it was forgotten meanwhile
            bucket.give_back()


def _place(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]  # a name of the server's own making, as of a UNIX socket
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.IPv6Network((parsed, 64), strict=False))
