"""The sessions of this node: who is connected, opening and resuming, and the end.

A session is a row of the ledger; a connection holds it while its generation is the row's. So a session opened
elsewhere takes it away from here, and a node that dies loses nothing: its sessions resume on any other.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, Protocol

from msgspec import UNSET

from gateway.core.records import Identity, JobRecord, SessionRecord
from gateway.flow.access import CLOSES, Access
from gateway.ports import Clock, Ledger
from protocol.errors import ClientFault
from protocol.ids import make_ulid
from protocol.messages import VERSION, Canceler, Hello, Limits, Welcome

Reason = Literal["drain", "auth_expired", "overloaded", "max_age", "connection_limit"]
FEATURES: Final = ["upload", "inline_finals", "sse", "grants", "tickets"]
RESUME_TOKEN_MS: Final = 30 * 86_400_000
"""A bound on the text alone; what counts is whether the session's row is still there."""


class Holder(Protocol):
    """What a session needs of the connection that holds it."""

    identity: Identity | None
    session: SessionRecord | None

    def close(self, name: str) -> None:
        """End the connection with the close code of this name."""
        ...

    def go_away(self, reason: Reason, retry_after_ms: int, close: str) -> None:
        """Tell the client to come back later, then close."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a hello came to: its session, and the session's jobs with whether they ended."""

    session: SessionRecord
    resumed: bool
    old_positions: bool
    """Whether the client may have positions of another epoch; so it stays for the session's life, for a cut may come
    before the snapshots that set them right."""
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Promises:
    """What `welcome` announces; milliseconds."""

    heartbeat_ms: int
    session_ttl_ms: int
    event_retention_ms: int
    asset_retention_ms: int
    currency: str


class Sessions:
    """The connections of this node by session and subject."""

    def __init__(
        self,
        ledger: Ledger,
        access: Access,
        clock: Clock,
        chance: random.Random,
        limits: Limits,
        promises: Promises,
        *,
        drain_spread_ms: int,
        cancel: Callable[[JobRecord, Canceler], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._access = access
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._promises = promises
        self._drain_spread_ms = drain_spread_ms
        self._cancel = cancel
        self._open: dict[str, Holder] = {}
        self._admitted: set[Holder] = set()
        self._by_subject: Counter[tuple[str, str]] = Counter()
        self.draining = False

    def __len__(self) -> int:
        return len(self._admitted)

    @property
    def held(self) -> int:
        """How many sessions are held by a connection of this node."""
        return len(self._open)

    async def identify(self, hello: Hello) -> Identity | str:
        """Return who a `hello` with a token comes from, or the name of the close code if nobody."""
        if hello.token is UNSET:
            return "unauthorized"
        try:
            return await self._access.identify(hello.token)
        except ClientFault as fault:
            return CLOSES[fault.code]

    def admit(self, connection: Holder) -> bool:
        """Count a connection against its subject; `False` if there are too many, or the node drains."""
        subject = self._subject(connection)
        if self.draining or self._by_subject[subject] >= self._limits.max_connections:
            return False
        self._by_subject[subject] += 1
        self._admitted.add(connection)
        return True

    async def open(self, connection: Holder, hello: Hello) -> Opened:
        """Resume the session that `hello` names, or open a new one. The older connection of it, if here, is closed."""
        identity = connection.identity
        assert identity is not None, "a session belongs to somebody"
        now = self._clock.time_ms()
        expires = now + 2 * self._promises.session_ttl_ms
        token = None if hello.resume is UNSET else self._access.read_resume(hello.resume)
        is_foreign = token is not None and token.epoch != self._access.epoch
        old_positions = token is not None and (is_foreign or token.old_positions)
        if token is not None and not is_foreign:
            session = await self._ledger.sessions.resume(
                token.session, identity.tenant, identity.subject, now, expires, identity.restriction
            )
            if session is not None:
                jobs = await self._resumed(connection, session, hello)
                return Opened(session, resumed=True, old_positions=old_positions, jobs=jobs)
        name = make_ulid(now, self._chance)
        session = SessionRecord(name, identity.tenant, identity.subject, 1, identity.restriction)
        await self._ledger.sessions.open(session, now, expires)
        self._open[session.id] = connection
        return Opened(session, resumed=False, old_positions=old_positions, jobs=())

    async def _resumed(self, connection: Holder, session: SessionRecord, hello: Hello) -> tuple[str, ...]:
        """Take the session over from an older connection; returns its jobs and those that the client has of it."""
        older = self._open.get(session.id)
        self._open[session.id] = connection
        if older is not None and older is not connection:
            older.close("replaced")
        jobs = dict.fromkeys(await self._ledger.jobs.of_session(session.id))
        assert connection.identity is not None, "a session belongs to somebody"
        may_read = "read" in connection.identity.narrowed(session.restriction).scopes
        for one in hello.have if may_read else ():
            record = None if one.job in jobs else await self._ledger.jobs.find(one.job)
            if record is not None and self._owned(record, session):
                jobs[one.job] = None
        return tuple(jobs)

    def welcome(self, session: SessionRecord, *, resumed: bool) -> Welcome:
        """Return the answer to a `hello`."""
        promises = self._promises
        return Welcome(
            v=VERSION, session=session.id, resumed=resumed, time_ms=self._clock.time_ms(),
            heartbeat_ms=promises.heartbeat_ms, session_ttl_ms=promises.session_ttl_ms,
            event_retention_ms=promises.event_retention_ms, asset_retention_ms=promises.asset_retention_ms,
            currency=promises.currency, features=FEATURES, limits=self._limits,
        )  # fmt: skip

    def resume_token(self, session: SessionRecord, *, old_positions: bool) -> str:
        """Return the text that resumes the session."""
        expires = self._clock.time_ms() + RESUME_TOKEN_MS
        return self._access.make_resume(session.id, expires, old_positions=old_positions)

    def auth_ends(self, identity: Identity) -> float:
        """Return when a credential ends, on the monotonic clock."""
        if identity.expires_ms is None:
            return inf
        return self._clock.now() + (identity.expires_ms - self._clock.time_ms()) / 1000

    def retry_after_ms(self) -> int:
        """Return a random time to stay away for, so that not everybody comes back at once."""
        return self._chance.randint(0, self._drain_spread_ms)

    async def handled(self, job: str, session: SessionRecord) -> None:
        """A job's end was handled by its session."""
        await self._ledger.jobs.leave_session(job, session.id)

    async def disconnected(self, connection: Holder) -> None:
        """A connection is gone; its session lives on for its time."""
        if connection in self._admitted:
            self._admitted.discard(connection)
            subject = self._subject(connection)
            self._by_subject[subject] -= 1
            if not self._by_subject[subject]:
                del self._by_subject[subject]
        session = connection.session
        if session is not None and self._open.get(session.id) is connection:
            del self._open[session.id]
            expires = self._clock.time_ms() + self._promises.session_ttl_ms
            await self._ledger.sessions.renew([(session.id, session.generation)], expires)

    async def end(self, session: str) -> None:
        """End a session: its jobs that said so are canceled."""
        for job in await self._ledger.sessions.end(session):
            record = await self._ledger.jobs.find(job)
            if record is not None:
                await self._cancel(record, "session")
        self._open.pop(session, None)

    async def renew(self) -> None:
        """Keep the sessions of live connections; close those that were taken over elsewhere."""
        held = {c.session.id: (c.session.id, c.session.generation) for c in self._open.values() if c.session}
        if not held:
            return
        ours = await self._ledger.sessions.renew(
            list(held.values()), self._clock.time_ms() + 2 * self._promises.session_ttl_ms
        )
        for session in held.keys() - ours:
            connection = self._open.get(session)
            # One that resumed it here while we asked has a later generation, or none yet.
            mine = None if connection is None else connection.session
            if connection is not None and mine is not None and mine.generation == held[session][1]:
                connection.close("replaced")

    async def recheck(self) -> None:
        """Close the connections whose credential was revoked since."""
        for connection in list(self._admitted):
            if connection.identity is not None and not await self._access.stands(connection.identity):
                connection.close("unauthorized")

    async def sweep(self) -> None:
        """End sessions whose time is over. That of a live connection never is: the clock was set, or we were asleep."""
        now = self._clock.time_ms()
        expired = await self._ledger.sessions.expired(now)
        if not self._open.keys().isdisjoint(expired):
            await self.renew()
            expired = await self._ledger.sessions.expired(now)
        for session in expired:
            if session not in self._open:
                await self.end(session)

    def drain(self) -> None:
        """Tell every client to go elsewhere, and close."""
        self.draining = True
        for connection in list(self._admitted):
            connection.go_away("drain", self.retry_after_ms(), "going_away")

    def _subject(self, connection: Holder) -> tuple[str, str]:
        assert connection.identity is not None, "only known clients are admitted"
        return connection.identity.tenant, connection.identity.subject

    def _owned(self, record: JobRecord, session: SessionRecord) -> bool:
        return (record.tenant, record.subject) == (session.tenant, session.subject)
