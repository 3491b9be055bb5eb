"""Jobs in the ledger: the submit's one transaction, fair claims, and the numbered log.

`WHERE claim = mine AND seq = expected` stands in every write of a worker, so that neither two workers nor a stale one
can write. A refused append raises `StaleClaim` and changes nothing.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, case, func, insert, select, update

from gateway.core.jobs import ENDED, LIVE, State
from gateway.core.records import JobRecord, NewJob, Submitted
from gateway.core.requests import Request
from gateway.ledger.rows import (
    COLUMNS,
    as_record,
    encode,
    find_job,
    folded,
    read_log,
    request_of,
    write_events,
)
from gateway.ledger.schema import calls, events, holds, jobs, lanes, refs, runs
from gateway.ledger.sql import Store
from protocol.errors import ClientFault
from protocol.messages import Accepted, Canceled, Canceler, Numbered


class Jobs:
    """See `gateway.ports.Jobs`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def submit(self, new: NewJob) -> Submitted:
        return await self._store.write(partial(_submit, new=new))

    async def cancel(self, job: str, by: Canceler, now_ms: int) -> tuple[Numbered, ...]:
        return await self._store.write(partial(_cancel, job=job, by=by, now_ms=now_ms))

    async def overdue(self, now_ms: int, limit: int = 256) -> list[str]:
        return await self._store.read(partial(_overdue, now_ms=now_ms, limit=limit))

    async def find(self, job: str) -> JobRecord | None:
        return await self._store.read(partial(find_job, job=job))

    async def log(self, job: str, after: int = 0) -> tuple[JobRecord, list[Numbered]] | None:
        return await self._store.read(partial(_log, job=job, after=after))

    async def request(self, job: str) -> Request | None:
        return await self._store.read(partial(request_of, job=job))

    async def of_session(self, session: str) -> list[tuple[str, int, bool]]:
        return await self._store.read(partial(_of_session, session=session))

    async def leave_session(self, job: str, session: str) -> None:
        await self._store.write(partial(_leave_session, job=job, session=session))

    async def listed(
        self, tenant: str, subject: str, *, ref: str | None, state: str | None, after: str | None, limit: int
    ) -> list[JobRecord]:
        return await self._store.read(
            partial(_listed, tenant=tenant, subject=subject, ref=ref, state=state, after=after, limit=limit)
        )

    async def heads(self, jobs: Sequence[str]) -> dict[str, int]:
        return await self._store.read(partial(_heads, wanted=tuple(jobs)))

    async def queue(self, upstream: str, limit: int = 256) -> list[str]:
        return await self._store.read(partial(_queue, upstream=upstream, limit=limit))

    async def counts(self) -> dict[tuple[str, str], int]:
        return await self._store.read(_counts)

    async def trim(self, ended_before_ms: int, forgotten_before_ms: int, limit: int = 256) -> int:
        return await self._store.write(
            partial(_trim, ended_before_ms=ended_before_ms, forgotten_before_ms=forgotten_before_ms, limit=limit)
        )


def _log(connection: Connection, job: str, after: int) -> tuple[JobRecord, list[Numbered]] | None:
    record = find_job(connection, job)
    return None if record is None else (record, read_log(connection, job, after))


# --- submit -------------------------------------------------------------------------------------------------------


def _submit(connection: Connection, new: NewJob) -> Submitted:
    twin = _twin(connection, new)
    if twin is not None:
        return twin
    _check_room(connection, new)
    connection.execute(
        insert(runs).values(
            id=new.run, tenant=new.tenant, fingerprint=new.fingerprint, request=encode(new.request),
            created_ms=new.created_ms,
        )
    )  # fmt: skip
    connection.execute(insert(jobs).values(**_job_row(new)))
    accepted = Accepted(
        job=new.id, seq=1, time_ms=new.created_ms, ref=new.ref, task=new.task, model=new.request.model,
        cost_max_micros=new.price_micros, duplicate=False,
    )  # fmt: skip
    write_events(connection, new.id, new.tenant, (accepted,))
    connection.execute(refs.delete().where(*_ref_is(new), refs.c.expires_ms <= new.created_ms))
    connection.execute(
        insert(refs).values(
            tenant=new.tenant, subject=new.subject, ref=new.ref, job=new.id, body_hash=new.body_hash,
            expires_ms=new.ref_expires_ms,
        )
    )  # fmt: skip
    connection.execute(
        insert(holds).values(job=new.id, tenant=new.tenant, amount_micros=new.price_micros, state="held")
    )
    _open_lane(connection, new.tenant, new.weight)
    record = find_job(connection, new.id)
    assert record is not None, "it was inserted above"
    return Submitted(record, accepted, duplicate=False)


def _job_row(new: NewJob) -> dict[str, Any]:
    return {
        "id": new.id, "tenant": new.tenant, "subject": new.subject, "run": new.run, "session": new.session,
        "on_disconnect": new.on_disconnect, "ref": new.ref, "task": new.task, "model": new.request.model,
        "upstream": new.upstream, "state": State.QUEUED, "seq": 1, "attempt": 0, "step": 0, "claim": 0,
        "lease_ms": 0, "ready_ms": 0, "priority": new.priority, "price_micros": new.price_micros, "cost_micros": 0,
        "deadline_ms": new.deadline_ms, "created_ms": new.created_ms, "trimmed": False,
    }  # fmt: skip


def _ref_is(new: NewJob) -> tuple[Any, ...]:
    return refs.c.tenant == new.tenant, refs.c.subject == new.subject, refs.c.ref == new.ref


def _twin(connection: Connection, new: NewJob) -> Submitted | None:
    """The job that this ref made before, if the ref still counts."""
    row = connection.execute(
        select(refs.c.job, refs.c.body_hash).where(*_ref_is(new), refs.c.expires_ms > new.created_ms)
    ).one_or_none()
    if row is None:
        return None
    if row.body_hash != new.body_hash:
        raise ClientFault("idempotency_conflict", "this ref was used with another body", details={"path": "ref"})
    record = find_job(connection, row.job)
    assert record is not None, "a ref's job outlives the ref"
    if new.session is not None:  # the newest connection that asks for it is the one that gets it back on resume
        connection.execute(update(jobs).where(jobs.c.id == row.job).values(session=new.session))
    accepted = Accepted(
        job=record.id, seq=1, time_ms=record.created_ms, ref=record.ref, task=record.task, model=record.model,
        cost_max_micros=record.price_micros, duplicate=True,
    )  # fmt: skip
    return Submitted(record, accepted, duplicate=True)


def _check_room(connection: Connection, new: NewJob) -> None:
    if new.max_jobs is not None:
        mine = select(func.count()).where(
            jobs.c.tenant == new.tenant, jobs.c.subject == new.subject, jobs.c.state.in_(LIVE)
        )
        if (connection.scalar(mine) or 0) >= new.max_jobs:
            raise ClientFault("concurrency_limit", f"at most {new.max_jobs} live jobs", retry_after_ms=1000)
    # Counted only up to the limit: a full count of a long queue at each submit would be quadratic.
    waiting = select(jobs.c.id).where(jobs.c.upstream == new.upstream, jobs.c.state == State.QUEUED)
    if connection.execute(waiting.offset(new.max_queue - 1).limit(1)).first() is not None:
        raise ClientFault("queue_full", f"{new.max_queue} jobs are waiting", retry_after_ms=5000)


def _open_lane(connection: Connection, tenant: str, weight: float) -> None:
    known = connection.scalar(select(lanes.c.weight).where(lanes.c.tenant == tenant))
    if known is None:
        connection.execute(insert(lanes).values(tenant=tenant, weight=weight, vtime=0.0))
    elif known != weight:
        connection.execute(update(lanes).where(lanes.c.tenant == tenant).values(weight=weight))


# --- cancel -----------------------------------------------------------------------------------------------------


def _cancel(connection: Connection, job: str, by: Canceler, now_ms: int) -> tuple[Numbered, ...]:
    record = find_job(connection, job)
    if record is None or record.has_ended:
        return ()
    if record.state is not State.QUEUED or record.seq > 1:
        # A worker has it, or had it: what it cost and delivered is for a claim to settle.
        first = case((jobs.c.cancel_by.is_(None), by), else_=jobs.c.cancel_by)
        connection.execute(update(jobs).where(jobs.c.id == job).values(cancel_by=first, ready_ms=0))
        return ()
    end = Canceled(
        job=job, seq=record.seq + 1, time_ms=now_ms, by=by, step=0, images=[], cost_micros=record.cost_micros
    )
    write_events(connection, job, record.tenant, (end,))
    connection.execute(update(jobs).where(jobs.c.id == job).values(**folded(record, (end,)), cancel_by=by))
    connection.execute(update(holds).where(holds.c.job == job).values(state="released"))
    return (end,)


def _overdue(connection: Connection, now_ms: int, limit: int) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.ended_ms.is_(None), jobs.c.deadline_ms <= now_ms, jobs.c.cancel_by.is_(None))
    return list(connection.scalars(query.limit(limit)))


# --- lists and sessions -------------------------------------------------------------------------------------------


def _of_session(connection: Connection, session: str) -> list[tuple[str, int, bool]]:
    query = select(jobs.c.id, jobs.c.seq, jobs.c.state).where(jobs.c.session == session).order_by(jobs.c.id)
    return [(row.id, row.seq, State(row.state) in ENDED) for row in connection.execute(query)]


def _leave_session(connection: Connection, job: str, session: str) -> None:
    connection.execute(update(jobs).where(jobs.c.id == job, jobs.c.session == session).values(session=None))


def _listed(
    connection: Connection,
    tenant: str,
    subject: str,
    ref: str | None,
    state: str | None,
    after: str | None,
    limit: int,
) -> list[JobRecord]:
    query = select(*COLUMNS).where(jobs.c.tenant == tenant, jobs.c.subject == subject)
    if ref is not None:
        query = query.where(jobs.c.ref == ref)
    if state is not None:
        query = query.where(jobs.c.state == state)
    if after is not None:
        query = query.where(jobs.c.id < after)
    return [as_record(row) for row in connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))]


def _heads(connection: Connection, wanted: tuple[str, ...]) -> dict[str, int]:
    heads: dict[str, int] = {}
    for start in range(0, len(wanted), 500):  # SQLite takes a limited number of parameters
        query = select(jobs.c.id, jobs.c.seq).where(jobs.c.id.in_(wanted[start : start + 500]))
        heads |= {row.id: row.seq for row in connection.execute(query)}
    return heads


def _queue(connection: Connection, upstream: str, limit: int) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.upstream == upstream, jobs.c.state == State.QUEUED)
    return list(connection.scalars(query.order_by(jobs.c.priority.desc(), jobs.c.id).limit(limit)))


def _counts(connection: Connection) -> dict[tuple[str, str], int]:
    query = select(jobs.c.upstream, jobs.c.state, func.count()).where(jobs.c.state.in_(LIVE))
    return {(row[0], row[1]): row[2] for row in connection.execute(query.group_by(jobs.c.upstream, jobs.c.state))}


# --- retention ----------------------------------------------------------------------------------------------------


def _trim(connection: Connection, ended_before_ms: int, forgotten_before_ms: int, limit: int) -> int:
    old = select(jobs.c.id, jobs.c.seq).where(jobs.c.ended_ms <= ended_before_ms, jobs.c.trimmed.is_(False))
    rows = connection.execute(old.limit(limit)).all()
    for row in rows:
        connection.execute(events.delete().where(events.c.job == row.id, events.c.seq < row.seq))
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(trimmed=True))
    return len(rows) + _forget(connection, forgotten_before_ms, limit)


def _forget(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete ended jobs whose ref has run out; holds spent on an unknown outcome stay listed with their job."""
    kept = select(holds.c.job).where(holds.c.job == jobs.c.id, holds.c.state == "spent_unknown").exists()
    query = select(jobs.c.id, jobs.c.run).where(jobs.c.ended_ms <= before_ms, ~kept).limit(limit)
    rows = connection.execute(query).all()
    for row in rows:
        for table in (events, refs, holds, calls):
            connection.execute(table.delete().where(table.c.job == row.id))
        connection.execute(jobs.delete().where(jobs.c.id == row.id))
        connection.execute(runs.delete().where(runs.c.id == row.run))
    return len(rows)
