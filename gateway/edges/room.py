"""Room for what is large: so much of it at once, shared among those who ask, with a short queue before it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from gateway.core.records import Identity
from protocol.errors import ClientFault

Who = tuple[str, str]
"""An account, and the end user under it."""
Enter = Callable[[Identity], Awaitable[None]]
MOST_WAITING: Final = 128
"""Requests that may wait before one room; each holds what a socket holds, some 100 KiB."""
MOST_WAITING_EACH: Final = 16
"""Of one end user; a server of the account's, which asks for many, may be three quarters of all."""
WAIT_SECONDS: Final = 20.0
"""Longer than a stored body takes, and shorter than the patience of clients and proxies."""


class Room:
    """Takes in `most` at once, `most_each` of them from one end user and three quarters of them from one account.

    Who asks with the account's own key is no end user, and may have all that the account may.
    """

    def __init__(self, most: int, most_each: int, refusal: str) -> None:
        self._most = most
        self._most_each = most_each
        self._most_of_account = max(most_each, most * 3 // 4)
        self._refusal = refusal
        self._inside: Counter[Who] = Counter()
        self._waiting: dict[asyncio.Future[None], Who] = {}

    def __len__(self) -> int:
        return self._inside.total()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextlib.contextmanager
    def lease(self) -> Iterator[Enter]:
        """Give a function that takes room for who asks, waiting for it if it must; it is left with the context.

        Raises `ClientFault` `overloaded`. Taken again it is the same room.
        """
        inside: list[Who] = []

        async def enter(identity: Identity) -> None:
            if not inside:
                who = (identity.tenant, identity.subject)
                await self._enter(who)
                inside.append(who)

        try:
            yield enter
        finally:
            for who in inside:
                self._leave(who)

    async def _enter(self, who: Who) -> None:
        if self._has_room(who):
            self._inside[who] += 1
            return
        most_waiting = MOST_WAITING_EACH if who[1] else MOST_WAITING * 3 // 4
        if len(self._waiting) >= MOST_WAITING or list(self._waiting.values()).count(who) >= most_waiting:
            raise self._full()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turn(who)
        except TimeoutError:
            raise self._full() from None

    async def _turn(self, who: Who) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = who
        try:
            await turn
        except BaseException:
            if self._waiting.pop(turn, None) is None:  # its turn had come, in the same moment
                self._leave(who)
            raise

    def _leave(self, who: Who) -> None:
        self._inside[who] -= 1
        if not self._inside[who]:
            del self._inside[who]
        for turn, waiting in list(self._waiting.items()):
            if self._has_room(waiting) and not turn.done():
                del self._waiting[turn]
                self._inside[waiting] += 1
                turn.set_result(None)

    def _has_room(self, who: Who) -> bool:
        of_account = sum(count for (account, _), count in self._inside.items() if account == who[0])
        is_within_share = of_account < self._most_of_account and (not who[1] or self._inside[who] < self._most_each)
        return len(self) < self._most and is_within_share

    def _full(self) -> ClientFault:
        return ClientFault("overloaded", self._refusal, retry_after_ms=1000)
