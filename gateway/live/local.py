"""The live plane inside one process."""

from typing import Final

from gateway.core.records import Identity

MAX_TICKETS: Final = 100_000


class LocalTickets:
    """See `gateway.ports.Tickets`. Bounded: where too many wait, the oldest is forgotten and will be refused."""

    def __init__(self, max_tickets: int = MAX_TICKETS) -> None:
        self._max_tickets = max_tickets
        self._kept: dict[str, tuple[Identity, int]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, ticket: str, identity: Identity, expires_ms: int) -> None:
        self._kept.pop(ticket, None)
        while len(self._kept) >= self._max_tickets:
            self._forget_oldest()
        self._kept[ticket] = (identity, expires_ms)

    def take(self, ticket: str, now_ms: int) -> Identity | None:
        # All tickets live equally long, so the oldest run out first and those that nobody took go here.
        while self._kept and next(iter(self._kept.values()))[1] <= now_ms:
            self._forget_oldest()
        identity, expires_ms = self._kept.pop(ticket, (None, 0))
        return identity if expires_ms > now_ms else None

    def _forget_oldest(self) -> None:
        del self._kept[next(iter(self._kept))]
