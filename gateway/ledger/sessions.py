"""Sessions in the ledger: opened, resumed by raising the generation, renewed while connected, ended once.

A session's row says until when it lives if nobody renews it, so a node that dies without a word ends its sessions by
doing nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from gateway.core.jobs import LIVE
from gateway.core.records import SessionRecord
from gateway.core.scopes import UNRESTRICTED, Restriction
from gateway.ledger.schema import jobs, sessions
from gateway.ledger.sql import Store


class Sessions:
    """See `gateway.ports.Sessions`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open(self, new: SessionRecord, now_ms: int, expires_ms: int) -> SessionRecord:
        return await self._store.write(partial(_open, new=new, now_ms=now_ms, expires_ms=expires_ms))

    async def resume(
        self,
        session: str,
        tenant: str,
        subject: str,
        now_ms: int,
        expires_ms: int,
        restriction: Restriction = UNRESTRICTED,
    ) -> SessionRecord | None:
        return await self._store.write(
            partial(
                _resume, session=session, tenant=tenant, subject=subject, now_ms=now_ms, expires_ms=expires_ms,
                restriction=restriction,
            )
        )  # fmt: skip

    async def renew(self, held: Sequence[tuple[str, int]], expires_ms: int) -> set[str]:
        return await self._store.write(partial(_renew, held=tuple(held), expires_ms=expires_ms))

    async def end(self, session: str) -> list[str]:
        return await self._store.write(partial(_end, session=session))

    async def expired(self, now_ms: int, limit: int = 256) -> list[str]:
        return await self._store.read(partial(_expired, now_ms=now_ms, limit=limit))


def _record(connection: Connection, session: str) -> SessionRecord | None:
    query = select(
        sessions.c.id, sessions.c.tenant, sessions.c.subject, sessions.c.generation, sessions.c.restriction
    ).where(sessions.c.id == session)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    kept = UNRESTRICTED if row.restriction is None else msgspec.json.decode(row.restriction, type=Restriction)
    return SessionRecord(row.id, row.tenant, row.subject, row.generation, kept)


def _text(restriction: Restriction) -> bytes | None:
    return None if restriction == UNRESTRICTED else msgspec.json.encode(restriction)


def _open(connection: Connection, new: SessionRecord, now_ms: int, expires_ms: int) -> SessionRecord:
    connection.execute(
        insert(sessions).values(
            id=new.id, tenant=new.tenant, subject=new.subject, generation=new.generation, created_ms=now_ms,
            expires_ms=expires_ms, restriction=_text(new.restriction), spent_micros=0,
        )
    )  # fmt: skip
    return new


def _resume(
    connection: Connection,
    session: str,
    tenant: str,
    subject: str,
    now_ms: int,
    expires_ms: int,
    restriction: Restriction,
) -> SessionRecord | None:
    raised = connection.execute(
        update(sessions)
        .where(
            sessions.c.id == session, sessions.c.tenant == tenant, sessions.c.subject == subject,
            sessions.c.expires_ms > now_ms,
        )
        .values(generation=sessions.c.generation + 1, expires_ms=expires_ms)
    )  # fmt: skip
    record = _record(connection, session) if raised.rowcount == 1 else None
    if record is None:
        return None
    both = record.restriction.within(restriction)
    if both == record.restriction:
        return record
    connection.execute(update(sessions).where(sessions.c.id == session).values(restriction=_text(both)))
    return replace(record, restriction=both)


def _renew(connection: Connection, held: tuple[tuple[str, int], ...], expires_ms: int) -> set[str]:
    ours = set()
    for session, generation in held:
        renewed = connection.execute(
            update(sessions)
            .where(sessions.c.id == session, sessions.c.generation == generation)
            .values(expires_ms=expires_ms)
        )
        if renewed.rowcount == 1:
            ours.add(session)
    return ours


def _end(connection: Connection, session: str) -> list[str]:
    doomed = select(jobs.c.id).where(
        jobs.c.session == session, jobs.c.on_disconnect == "cancel", jobs.c.state.in_(LIVE)
    )
    found = list(connection.scalars(doomed))
    # With the session goes the only trace of what it wished, so the wish is written here: whoever claims them next,
    # though this process die now, ends them.
    connection.execute(update(jobs).where(jobs.c.id.in_(found)).values(cancel_by="session"))
    connection.execute(update(jobs).where(jobs.c.session == session).values(session=None))
    connection.execute(delete(sessions).where(sessions.c.id == session))
    return found


def _expired(connection: Connection, now_ms: int, limit: int) -> list[str]:
    return list(connection.scalars(select(sessions.c.id).where(sessions.c.expires_ms <= now_ms).limit(limit)))
