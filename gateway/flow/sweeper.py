"""What time alone brings about: ends of sessions, deadlines, retention, and the poll behind lost notifications."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from gateway.flow.node import Node
from gateway.flow.supervise import Supervisor

SESSIONS_SECONDS: Final = 1.0
DEADLINES_SECONDS: Final = 0.5
POLL_SECONDS: Final = 5.0
CREDENTIALS_SECONDS: Final = 2.0
RETENTION_SECONDS: Final = 30.0


class Sweeper:
    """The loops of a node that nobody waits for."""

    def __init__(self, node: Node, *, session_ttl_ms: int, ref_retention_ms: int) -> None:
        self._node = node
        self._renew_seconds = session_ttl_ms / 5000
        self._ref_retention_ms = ref_retention_ms

    def start(self, supervisor: Supervisor) -> None:
        """Start every loop; the supervisor holds them."""
        sessions, feeds = self._node.sessions, self._node.feeds
        for name, seconds, work in (
            ("renew sessions", self._renew_seconds, sessions.renew),
            ("end sessions", SESSIONS_SECONDS, sessions.sweep),
            ("deadlines", DEADLINES_SECONDS, self.end_overdue),
            ("credentials", CREDENTIALS_SECONDS, self.recheck),
            ("poll feeds", POLL_SECONDS, feeds.poll),
            ("retention", RETENTION_SECONDS, self.retain),
        ):
            supervisor.keep(_every(seconds, work), name)
        supervisor.keep(feeds.encode_forever, "encode previews")

    async def end_overdue(self) -> None:
        """Cancel jobs whose deadline has passed."""
        for job in await self._node.jobs.overdue(self._node.clock.time_ms()):
            record = await self._node.jobs.find(job)
            if record is not None:
                await self._node.admission.cancel(record, "deadline")

    async def recheck(self) -> None:
        """Take up what another process changed: new signing keys, and revocations of who is connected."""
        await self._node.access.refresh()
        await self._node.sessions.recheck()

    async def retain(self) -> None:
        """Cut logs and delete pictures whose time is over, and forget revocations of tokens that have ended."""
        now = self._node.clock.time_ms()
        while await self._node.jobs.trim(now - self._node.event_retention_ms, now - self._ref_retention_ms):
            pass  # a batch at a time: others write between them
        while await self._node.pictures.sweep():
            pass
        await self._node.access.forget()


def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            await work()

    return loop
