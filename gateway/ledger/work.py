"""A worker's side of the ledger: fair claims, compare-and-set appends, and calls committed before they are sent.

`WHERE claim = mine AND seq = expected` stands in every write, so that neither two workers nor a stale one can write. A
refused write raises `StaleClaim` and changes nothing.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from gateway.core.calls import Call, CallEvent, CallState, advance_call
from gateway.core.fairness import charge
from gateway.core.jobs import CLAIMED, Event, State, advance
from gateway.core.records import Append, CallSettled, Claimed, JobRecord, NewCall, SentCall, StaleClaim
from gateway.ledger.rows import COLUMNS, as_record, find_job, folded, read_log, request_of, write_events
from gateway.ledger.schema import calls, holds, jobs, lanes
from gateway.ledger.sql import Store
from protocol.messages import Canceler, Numbered


class Work:
    """See `gateway.ports.Work`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def claim(self, upstreams: Sequence[str], node: str, now_ms: int, lease_ms: int, limit: int) -> list[Claimed]:
        return await self._store.write(
            partial(_claim_many, upstreams=tuple(upstreams), node=node, now_ms=now_ms, lease_ms=lease_ms, limit=limit)
        )

    async def append(self, step: Append) -> tuple[Numbered, ...]:
        return await self._store.write(partial(_append, step=step))

    async def release(self, job: str, claim: int, ready_ms: int) -> None:
        await self._store.write(partial(_release, job=job, claim=claim, ready_ms=ready_ms))

    async def renew(self, claims: Sequence[tuple[str, int]], lease_ms: int) -> dict[str, Canceler | None]:
        return await self._store.write(partial(_renew, claims=tuple(claims), lease_ms=lease_ms))

    async def forget_claims(self, node: str | None = None) -> int:
        return await self._store.write(partial(_forget_claims, node=node))

    async def begin_call(self, new: NewCall, claim: int) -> None:
        await self._store.write(partial(_begin_call, new=new, claim=claim))

    async def settle_call(self, job: str, claim: int, settled: CallSettled) -> None:
        await self._store.write(partial(_settle_call_of, job=job, claim=claim, settled=settled))

    async def sent_since(self, upstream: str, since_ms: int) -> list[SentCall]:
        return await self._store.read(partial(_sent_since, upstream=upstream, since_ms=since_ms))


# --- claim --------------------------------------------------------------------------------------------------------


def _claimable(upstreams: tuple[str, ...], now_ms: int) -> Any:
    return and_(
        jobs.c.upstream.in_(upstreams),
        jobs.c.ready_ms <= now_ms,
        or_(jobs.c.state == State.QUEUED, and_(jobs.c.state.in_(CLAIMED), jobs.c.lease_ms <= now_ms)),
    )


def _claim_many(
    connection: Connection, upstreams: tuple[str, ...], node: str, now_ms: int, lease_ms: int, limit: int
) -> list[Claimed]:
    claimed: list[Claimed] = []
    while len(claimed) < limit:
        one = _claim(connection, upstreams, node, now_ms, lease_ms)
        if one is None:
            break
        claimed.append(one)
    return claimed


def _claim(connection: Connection, upstreams: tuple[str, ...], node: str, now_ms: int, lease_ms: int) -> Claimed | None:
    lane = _next_lane(connection, upstreams, now_ms)
    if lane is None:
        return None
    row = connection.execute(
        select(*COLUMNS)
        .where(jobs.c.tenant == lane.tenant, _claimable(upstreams, now_ms))
        .order_by(jobs.c.priority.desc(), jobs.c.id)
        .limit(1)
    ).one()
    job = as_record(row)
    state = advance(job.state, Event.CLAIM)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job.id, jobs.c.claim == job.claim)
        .values(state=state, claim=job.claim + 1, claimed_by=node, lease_ms=lease_ms)
    )
    vtime = charge(lane.vtime, lane.least, job.price_micros, lane.weight)
    connection.execute(update(lanes).where(lanes.c.tenant == lane.tenant).values(vtime=vtime))
    _lose_calls(connection, job)
    request = request_of(connection, job.id)
    record = find_job(connection, job.id)
    assert request is not None and record is not None, "the job was found above"
    return Claimed(record, request, read_log(connection, job.id, 0), _calls_of(connection, job.run))


def _next_lane(connection: Connection, upstreams: tuple[str, ...], now_ms: int) -> Row[Any] | None:
    """The lane that has received least among those with work; `least` is its own virtual time: it is the smallest."""
    waiting = select(jobs.c.id).where(jobs.c.tenant == lanes.c.tenant, _claimable(upstreams, now_ms)).exists()
    return connection.execute(
        select(lanes.c.tenant, lanes.c.weight, lanes.c.vtime, _active_floor(upstreams).label("least"))
        .where(waiting)
        .order_by(lanes.c.vtime, lanes.c.tenant)
        .limit(1)
    ).one_or_none()


def _active_floor(upstreams: tuple[str, ...]) -> Any:
    """The smallest virtual time of the lanes that have something running: where a lane that was idle comes in."""
    other = lanes.alias()
    busy = select(jobs.c.id).where(
        jobs.c.tenant == other.c.tenant, jobs.c.upstream.in_(upstreams), jobs.c.state.in_(CLAIMED)
    )
    return func.coalesce(
        select(func.min(other.c.vtime)).where(busy.exists()).correlate(None).scalar_subquery(), lanes.c.vtime
    )


def _lose_calls(connection: Connection, job: JobRecord) -> None:
    """A claim that finds a call in `sending` cannot know its outcome: it becomes `unknown` before anything else."""
    lost = advance_call(CallState.SENDING, CallEvent.LOSE)
    connection.execute(
        update(calls).where(calls.c.run == job.run, calls.c.state == CallState.SENDING).values(state=lost)
    )


def _calls_of(connection: Connection, run: str) -> list[Call]:
    query = select(calls.c.id, calls.c.state, calls.c.billed, calls.c.first_index, calls.c.count.label("images"))
    rows = connection.execute(query.where(calls.c.run == run).order_by(calls.c.id))
    return [Call(row.id, CallState(row.state), row.billed, row.first_index, row.images) for row in rows]


# --- a claimed job's steps ----------------------------------------------------------------------------------------


def _append(connection: Connection, step: Append) -> tuple[Numbered, ...]:
    job = find_job(connection, step.job)
    if job is None or job.claim != step.claim or job.seq != step.after or job.has_ended:
        raise StaleClaim(f"claim {step.claim} of job {step.job} at {step.after} is not the job's")
    if step.call is not None:
        _settle_call(connection, step.call)
    numbered = tuple(
        msgspec.structs.replace(event, seq=step.after + place) for place, event in enumerate(step.events, start=1)
    )
    write_events(connection, job.id, job.tenant, numbered)
    values = folded(job, numbered)
    values["lease_ms"] = step.lease_ms
    if step.call is not None and step.call.cost_micros:
        values["cost_micros"] = job.cost_micros + step.call.cost_micros
    if step.step is not None:
        values["step"] = step.step
    changed = connection.execute(
        update(jobs).where(jobs.c.id == job.id, jobs.c.claim == step.claim, jobs.c.seq == step.after).values(**values)
    )
    if changed.rowcount != 1:
        raise StaleClaim(f"claim {step.claim} of job {step.job} was taken over")
    if step.hold is not None:
        connection.execute(update(holds).where(holds.c.job == job.id).values(state=step.hold))
    return numbered


def _release(connection: Connection, job: str, claim: int, ready_ms: int) -> None:
    record = find_job(connection, job)
    if record is None or record.claim != claim or record.state not in CLAIMED:
        return
    state = advance(record.state, Event.RELEASE)
    connection.execute(
        update(jobs)
        .where(jobs.c.id == job, jobs.c.claim == claim)
        .values(state=state, claimed_by=None, lease_ms=0, ready_ms=ready_ms)
    )


def _renew(connection: Connection, claims: tuple[tuple[str, int], ...], lease_ms: int) -> dict[str, Canceler | None]:
    held: dict[str, Canceler | None] = {}
    for job, claim in claims:
        changed = connection.execute(
            update(jobs)
            .where(jobs.c.id == job, jobs.c.claim == claim, jobs.c.state.in_(CLAIMED))
            .values(lease_ms=lease_ms)
        )
        if changed.rowcount == 1:
            held[job] = connection.scalar(select(jobs.c.cancel_by).where(jobs.c.id == job))
    return held


def _forget_claims(connection: Connection, node: str | None) -> int:
    query = update(jobs).where(jobs.c.state.in_(CLAIMED)).values(lease_ms=0)
    if node is not None:
        query = query.where(jobs.c.claimed_by == node)
    return connection.execute(query).rowcount


# --- calls --------------------------------------------------------------------------------------------------------


def _begin_call(connection: Connection, new: NewCall, claim: int) -> None:
    _check_claim(connection, new.job, claim)
    connection.execute(
        insert(calls).values(
            id=new.id, run=new.run, job=new.job, tenant=new.tenant, upstream=new.upstream, credential=new.credential,
            billed=new.billed, state=CallState.SENDING, first_index=new.first, count=new.count,
            price_micros=new.price_micros, cost_micros=0, sent_ms=new.sent_ms,
        )
    )  # fmt: skip


def _settle_call_of(connection: Connection, job: str, claim: int, settled: CallSettled) -> None:
    _check_claim(connection, job, claim)
    _settle_call(connection, settled)


def _check_claim(connection: Connection, job: str, claim: int) -> None:
    held = select(jobs.c.id).where(jobs.c.id == job, jobs.c.claim == claim, jobs.c.state.in_(CLAIMED))
    if connection.execute(held).first() is None:
        raise StaleClaim(f"claim {claim} of job {job} was taken over")


def _settle_call(connection: Connection, settled: CallSettled) -> None:
    state = CallState(connection.execute(select(calls.c.state).where(calls.c.id == settled.id)).scalar_one())
    connection.execute(
        update(calls)
        .where(calls.c.id == settled.id)
        .values(
            state=advance_call(state, settled.event), answered_ms=settled.answered_ms,
            cost_micros=settled.cost_micros, error=settled.error,
        )
    )  # fmt: skip


def _sent_since(connection: Connection, upstream: str, since_ms: int) -> list[SentCall]:
    query = select(calls.c.sent_ms, calls.c.answered_ms).where(
        calls.c.upstream == upstream,
        or_(calls.c.sent_ms >= since_ms, calls.c.answered_ms >= since_ms, calls.c.state == CallState.SENDING),
    )
    return [SentCall(row.sent_ms, row.answered_ms) for row in connection.execute(query.order_by(calls.c.sent_ms))]
