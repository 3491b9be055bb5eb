"""The clients' side of jobs in the ledger: the submit's one transaction, wishes, logs, lists and retention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, update

from gateway.core.fairness import enter
from gateway.core.jobs import LIVE, State
from gateway.core.normal import Request
from gateway.core.records import JobRecord, NewJob, Submitted
from gateway.ledger.rows import (
    COLUMNS,
    FIELDS,
    as_record,
    change_hold,
    change_job,
    encode,
    find_job,
    folded,
    read_log,
    request_of,
    write_events,
)
from gateway.ledger.schema import calls, events, holds, jobs, lanes, refs, runs, sessions
from gateway.ledger.sql import Store
from protocol.errors import ClientFault
from protocol.messages import Accepted, Canceled, Canceler, Numbered

RECOUNT_MS: Final = 100


@dataclass(slots=True)
class _Room:
    """How many jobs an upstream's queue takes before it must be counted again: half of what it had room for then.

    Counting a long queue at each submit would be quadratic (8 ms at 100,000). Where several nodes submit, the limit may
    be passed by what they believed in together; it is there to bound memory, not to be exact.
    """

    left: int = 0
    full_since_ms: int = -RECOUNT_MS


class Jobs:
    """See `gateway.ports.Jobs`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rooms: dict[str, _Room] = {}
        """By upstream; only the committer's thread touches it."""

    async def submit(self, new: NewJob) -> Submitted:
        return await self._store.write(partial(_submit, new=new, rooms=self._rooms))

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

    async def of_session(self, session: str) -> list[str]:
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

_THIS_REF = (
    refs.c.tenant == bindparam("of_tenant"),
    refs.c.subject == bindparam("of_subject"),
    refs.c.ref == bindparam("of_ref"),
)
_FIND_REF = select(refs.c.job, refs.c.body_hash, refs.c.expires_ms).where(*_THIS_REF)
_FORGET_REF = delete(refs).where(*_THIS_REF)
_ADOPT = update(jobs).where(jobs.c.id == bindparam("of_job"))
_COUNT_LIVE = select(func.count()).where(
    jobs.c.tenant == bindparam("tenant"), jobs.c.subject == bindparam("subject"), jobs.c.ended_ms.is_(None)
)
_SPEND = (
    update(sessions)
    .where(
        sessions.c.id == bindparam("of_session"),
        sessions.c.spent_micros + bindparam("price") <= bindparam("most"),
    )
    .values(spent_micros=sessions.c.spent_micros + bindparam("price"))
)
_COUNT_WAITING = select(func.count()).where(jobs.c.state == State.QUEUED, jobs.c.upstream == bindparam("upstream"))
_INSERT_RUN, _INSERT_JOB, _INSERT_REF, _INSERT_HOLD, _INSERT_LANE = map(insert, (runs, jobs, refs, holds, lanes))
_CHANGE_LANE = update(lanes).where(lanes.c.tenant == bindparam("of_tenant"))
_NEWEST_START = select(func.coalesce(func.max(lanes.c.start), 0.0))
_FIND_LANE = select(
    lanes.c.weight,
    lanes.c.vtime,
    select(func.max(lanes.alias().c.start)).correlate(None).scalar_subquery().label("newest_start"),
    select(jobs.c.id)
    .where(
        jobs.c.upstream == bindparam("upstream"),
        jobs.c.state == State.QUEUED,
        jobs.c.tenant == bindparam("tenant"),
    )
    .exists()
    .label("is_waiting"),
).where(lanes.c.tenant == bindparam("tenant"))


def _submit(connection: Connection, new: NewJob, rooms: dict[str, _Room]) -> Submitted:
    twin = _twin(connection, new)
    if twin is not None:
        return twin
    _check_room(connection, new, rooms)
    _spend(connection, new)
    _enter_lane(connection, new)
    run = {
        "id": new.run, "tenant": new.tenant, "fingerprint": new.fingerprint, "request": encode(new.request),
        "created_ms": new.created_ms,
    }  # fmt: skip
    connection.execute(_INSERT_RUN, run)
    job = _job_row(new)
    connection.execute(_INSERT_JOB, job)
    record = JobRecord(**{name: job.get(name) for name in FIELDS})  # type: ignore[arg-type]
    accepted = _accepted(record, duplicate=False)
    write_events(connection, new.id, new.tenant, (accepted,))
    ref = {
        "tenant": new.tenant, "subject": new.subject, "ref": new.ref, "job": new.id, "body_hash": new.body_hash,
        "expires_ms": new.ref_expires_ms,
    }  # fmt: skip
    connection.execute(_INSERT_REF, ref)
    hold = {"job": new.id, "tenant": new.tenant, "amount_micros": new.price_micros, "state": "held"}
    connection.execute(_INSERT_HOLD, hold)
    return Submitted(record, accepted, duplicate=False)


def _job_row(new: NewJob) -> dict[str, Any]:
    return {
        "id": new.id, "tenant": new.tenant, "subject": new.subject, "run": new.run, "session": new.session,
        "on_disconnect": new.on_disconnect, "ref": new.ref, "task": new.task, "model": new.request.model,
        "upstream": new.upstream, "state": State.QUEUED, "seq": 1, "attempt": 0, "step": 0, "claim": 0,
        "lease_ms": 0, "ready_ms": 0, "priority": new.priority, "price_micros": new.price_micros, "cost_micros": 0,
        "deadline_ms": new.deadline_ms, "created_ms": new.created_ms, "trimmed": False,
    }  # fmt: skip


def _accepted(job: JobRecord, *, duplicate: bool) -> Accepted:
    return Accepted(
        job=job.id, seq=1, time_ms=job.created_ms, ref=job.ref, task=job.task, model=job.model,
        cost_max_micros=job.price_micros, duplicate=duplicate,
    )  # fmt: skip


def _twin(connection: Connection, new: NewJob) -> Submitted | None:
    """The job that this ref made before, if the ref still counts; one that does not is forgotten."""
    this_ref = {"of_tenant": new.tenant, "of_subject": new.subject, "of_ref": new.ref}
    row = connection.execute(_FIND_REF, this_ref).one_or_none()
    if row is None:
        return None
    if row.expires_ms <= new.created_ms:
        connection.execute(_FORGET_REF, this_ref)
        return None
    if row.body_hash != new.body_hash:
        raise ClientFault("idempotency_conflict", "this ref was used with another body", details={"path": "ref"})
    record = find_job(connection, row.job)
    assert record is not None, "a ref's job outlives the ref"
    if new.session is not None:  # the newest connection that asks for it is the one that gets it back on resume
        connection.execute(_ADOPT, {"of_job": record.id, "session": new.session})
        record = replace(record, session=new.session)
    return Submitted(record, _accepted(record, duplicate=True), duplicate=True)


def _check_room(connection: Connection, new: NewJob, rooms: dict[str, _Room]) -> None:
    if new.max_jobs is not None:
        mine = connection.scalar(_COUNT_LIVE, {"tenant": new.tenant, "subject": new.subject})
        if (mine or 0) >= new.max_jobs:
            raise ClientFault("concurrency_limit", f"at most {new.max_jobs} live jobs", retry_after_ms=1000)
    if not _has_room(connection, rooms.setdefault(new.upstream, _Room()), new):
        raise ClientFault("queue_full", f"{new.max_queue} jobs are waiting", retry_after_ms=5000)


def _spend(connection: Connection, new: NewJob) -> None:
    """Count what a job may cost against what its session may; nothing of it comes back, as a hold's rest would.

    A session whose client cancels and submits again would else cost more than it may: work that began is paid.
    """
    most = new.session_cost_micros
    if most is None:
        return
    values = {"of_session": new.session, "price": new.price_micros, "most": most}
    if connection.execute(_SPEND, values).rowcount == 0:
        raise ClientFault(
            "max_cost_exceeded",
            "the session's ticket does not cover the price",
            details={"cost_max_micros": new.price_micros, "session_max_cost_micros": most},
        )


def _has_room(connection: Connection, room: _Room, new: NewJob) -> bool:
    if room.left == 0 and not 0 <= new.created_ms - room.full_since_ms < RECOUNT_MS:
        waiting = connection.scalar(_COUNT_WAITING, {"upstream": new.upstream}) or 0
        room.left = max(0, new.max_queue - waiting + 1) // 2
        room.full_since_ms = new.created_ms if room.left == 0 else -RECOUNT_MS
    if room.left == 0:
        return False
    room.left -= 1
    return True


def _enter_lane(connection: Connection, new: NewJob) -> None:
    """Make the tenant's lane, or bring it up to the others if nothing of it waits there."""
    lane = connection.execute(_FIND_LANE, {"tenant": new.tenant, "upstream": new.upstream}).one_or_none()
    if lane is None:
        start = connection.scalar(_NEWEST_START)
        connection.execute(_INSERT_LANE, {"tenant": new.tenant, "weight": new.weight, "vtime": start, "start": start})
        return
    vtime = lane.vtime if lane.is_waiting else enter(lane.vtime, lane.newest_start)
    if (vtime, new.weight) != (lane.vtime, lane.weight):
        connection.execute(_CHANGE_LANE, {"of_tenant": new.tenant, "vtime": vtime, "weight": new.weight})


# --- cancel -----------------------------------------------------------------------------------------------------


_WISH = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"))
    .values(
        cancel_by=case((jobs.c.cancel_by.is_(None), bindparam("by")), else_=jobs.c.cancel_by),
        ready_ms=0,
    )
)


def _cancel(connection: Connection, job: str, by: Canceler, now_ms: int) -> tuple[Numbered, ...]:
    record = find_job(connection, job)
    if record is None or record.has_ended:
        return ()
    if record.state is not State.QUEUED or record.seq > 1:
        # A worker has it, or had it: what it cost and delivered is for a claim to settle.
        connection.execute(_WISH, {"of_job": job, "by": by})
        return ()
    end = Canceled(
        job=job, seq=record.seq + 1, time_ms=now_ms, by=by, step=0, images=[], cost_micros=record.cost_micros
    )
    write_events(connection, job, record.tenant, (end,))
    change_job(connection, record, {**folded(record, (end,)), "cancel_by": by})
    change_hold(connection, job, "released")
    return (end,)


def _overdue(connection: Connection, now_ms: int, limit: int) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.ended_ms.is_(None), jobs.c.deadline_ms <= now_ms, jobs.c.cancel_by.is_(None))
    return list(connection.scalars(query.limit(limit)))


# --- lists and sessions -------------------------------------------------------------------------------------------


def _of_session(connection: Connection, session: str) -> list[str]:
    return list(connection.scalars(select(jobs.c.id).where(jobs.c.session == session).order_by(jobs.c.id)))


def _leave_session(connection: Connection, job: str, session: str) -> None:
    """Only a job that ended leaves: of one that goes on, the session still wants the end."""
    ended = (jobs.c.id == job, jobs.c.session == session, jobs.c.ended_ms.is_not(None))
    connection.execute(update(jobs).where(*ended).values(session=None))


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


_CUT_LOG = delete(events).where(events.c.job == bindparam("of_job"), events.c.seq < bindparam("end"))
_MARK_TRIMMED = update(jobs).where(jobs.c.id == bindparam("of_job")).values(trimmed=True)
_FORGET_PARTS = [delete(table).where(table.c.job == bindparam("of_job")) for table in (events, refs, holds, calls)]
_FORGET_JOB = delete(jobs).where(jobs.c.id == bindparam("of_job"))
_FORGET_RUN = delete(runs).where(runs.c.id == bindparam("of_run"))


def _trim(connection: Connection, ended_before_ms: int, forgotten_before_ms: int, limit: int) -> int:
    old = select(jobs.c.id, jobs.c.seq).where(jobs.c.trimmed.is_(False), jobs.c.ended_ms <= ended_before_ms)
    rows = connection.execute(old.limit(limit)).all()
    if rows:
        connection.execute(_CUT_LOG, [{"of_job": row.id, "end": row.seq} for row in rows])
        connection.execute(_MARK_TRIMMED, [{"of_job": row.id} for row in rows])
    return len(rows) + _forget(connection, forgotten_before_ms, limit) + _forget_lanes(connection)


def _forget(connection: Connection, before_ms: int, limit: int) -> int:
    """Delete trimmed jobs whose ref has run out; holds spent on an unknown outcome stay listed with their job."""
    kept = select(holds.c.job).where(holds.c.job == jobs.c.id, holds.c.state == "spent_unknown").exists()
    query = select(jobs.c.id, jobs.c.run).where(jobs.c.trimmed.is_(True), jobs.c.ended_ms <= before_ms, ~kept)
    rows = connection.execute(query.limit(limit)).all()
    if rows:
        these = [{"of_job": row.id} for row in rows]
        for statement in (*_FORGET_PARTS, _FORGET_JOB):
            connection.execute(statement, these)
        connection.execute(_FORGET_RUN, [{"of_run": row.run} for row in rows])
    return len(rows)


def _forget_lanes(connection: Connection) -> int:
    """Delete lanes of tenants that have nothing to do and are behind: they would come in where a new one does."""
    live = select(jobs.c.id).where(jobs.c.tenant == lanes.c.tenant, jobs.c.ended_ms.is_(None)).exists()
    newest_start = select(func.max(lanes.alias().c.start)).correlate(None).scalar_subquery()
    return connection.execute(delete(lanes).where(lanes.c.vtime <= newest_start, ~live)).rowcount
