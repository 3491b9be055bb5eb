"""The public keys of foreign issuers over HTTP: cached, bounded in size and time.

A set is asked for anew when it is old, or when a token names a key that it lacks and the last look is some while ago:
so a rotated key is found, and made-up names reach the issuer at most twice a minute. One question at a time; what was
fetched last stands in for an issuer that does not answer, for a while.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec

from gateway.ports import Clock, KeysUnreachable

FRESH_SECONDS: Final = 600.0
COOL_DOWN_SECONDS: Final = 30.0
"""Between two looks that a missing key or a silent issuer brings about."""
STALE_SECONDS: Final = 86_400.0
"""For how long a set counts whose issuer cannot be asked."""
ASK_SECONDS: Final = 5.0
MAX_BYTES: Final = 131_072
MAX_KEYS: Final = 64


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(slots=True)
class _Kept:
    url: str
    keys: list[dict[str, Any]] = field(default_factory=list)
    fetched_at: float | None = None
    """When the keys came; `None` = never."""
    asked_at: float | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class HttpKeySets:
    """See `gateway.ports.KeySets`; `urls` are the addresses of the sets by the issuers' names."""

    def __init__(self, urls: Mapping[str, str], clock: Clock) -> None:
        self._kept = {name: _Kept(url) for name, url in urls.items()}
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def keys(self, issuer: str, key: str | None) -> Sequence[Mapping[str, object]]:
        kept = self._kept[issuer]
        # While the first question is under way, those that need its answer wait for it.
        if self._should_ask(kept, key) or (kept.asking.locked() and self._lacks(kept, key)):
            async with kept.asking:
                if self._should_ask(kept, key):  # else somebody asked while we waited
                    await self._ask(kept)
        if kept.fetched_at is None or self._clock.now() - kept.fetched_at > STALE_SECONDS:
            raise KeysUnreachable(issuer)
        return kept.keys

    def _should_ask(self, kept: _Kept, key: str | None) -> bool:
        now = self._clock.now()
        if kept.asked_at is not None and now - kept.asked_at < COOL_DOWN_SECONDS:
            return False
        is_old = kept.fetched_at is not None and now - kept.fetched_at >= FRESH_SECONDS
        return is_old or self._lacks(kept, key)

    def _lacks(self, kept: _Kept, key: str | None) -> bool:
        return kept.fetched_at is None or (key is not None and all(one.get("kid") != key for one in kept.keys))

    async def _ask(self, kept: _Kept) -> None:
        kept.asked_at = self._clock.now()
        try:
            keys = await self._fetch(kept.url)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return  # what there was goes on counting for its time
        kept.keys, kept.fetched_at = keys, self._clock.now()

    async def _fetch(self, url: str) -> list[dict[str, Any]]:
        """Return the set at an address; `ValueError` if it is none, or too large."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS))
        async with self._session.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer:
            if answer.status != 200:
                raise ValueError(f"the issuer answered {answer.status}")
            body = bytearray()
            async for part in answer.content.iter_any():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError("the set of keys is too large")
        return msgspec.json.decode(body, type=_Set).keys[:MAX_KEYS]
