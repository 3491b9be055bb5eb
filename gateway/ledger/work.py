"""A worker's side of the ledger: fair claims, compare-and-set appends, and calls committed before they are sent.

`WHERE claim = mine AND seq = expected` stands in every write, so that neither two workers nor a stale one can write. A
refused write raises `StaleClaim` and changes nothing.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update

from gateway.core.calls import Call, CallEvent, CallState, advance_call
from gateway.core.fairness import charge
from gateway.core.jobs import CLAIMED, Event, State, advance
from gateway.core.normal import Request
from gateway.core.records import Append, CallSettled, Claimed, NewCall, SentCall, StaleClaim
from gateway.ledger.rows import (
    COLUMNS,
    as_record,
    change_hold,
    change_job,
    decode_event,
    decode_request,
    find_job,
    folded,
    write_events,
)
from gateway.ledger.schema import calls, events, jobs, lanes, runs
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

    async def release(self, job: str, claim: int, ready_ms: int, upstream: str | None = None) -> None:
        await self._store.write(partial(_release, job=job, claim=claim, ready_ms=ready_ms, upstream=upstream))

    async def renew(self, claims: Sequence[tuple[str, int]], lease_ms: int) -> dict[str, Canceler | None]:
        return await self._store.write(partial(_renew, claims=tuple(claims), lease_ms=lease_ms))

    async def forget_claims(self, node: str | None = None) -> int:
        return await self._store.write(partial(_forget_claims, node=node))

    async def begin_call(self, new: NewCall, claim: int) -> None:
        await self._store.write(partial(_begin_call, new=new, claim=claim))

    async def note_handle(self, job: str, claim: int, call: str, handle: str) -> None:
        await self._store.write(partial(_note_handle, job=job, claim=claim, call=call, handle=handle))

    async def settle_call(self, job: str, claim: int, settled: CallSettled) -> None:
        await self._store.write(partial(_settle_call_of, job=job, claim=claim, settled=settled))

    async def sent_since(self, upstream: str, credential: str, since_ms: int) -> list[SentCall]:
        return await self._store.read(partial(_sent_since, upstream=upstream, credential=credential, since_ms=since_ms))

    async def durations(self, upstream: str, limit: int) -> list[tuple[Request, int, int]]:
        return await self._store.read(partial(_durations, upstream=upstream, limit=limit))


# --- claim --------------------------------------------------------------------------------------------------------

_AT_WORK = or_(*(jobs.c.state == state for state in sorted(CLAIMED)))  # `in_` costs more with each execution
# A queued job has no lease, so one condition on it finds those that wait and those whose worker was lost.
_CLAIMABLE = (
    jobs.c.upstream.in_(bindparam("upstreams", expanding=True)),
    or_(jobs.c.state == State.QUEUED, _AT_WORK),
    jobs.c.lease_ms <= bindparam("now_ms"),
    jobs.c.ready_ms <= bindparam("now_ms"),
)
_LANES_WITH_WORK = (
    select(lanes.c.vtime, lanes.c.tenant, lanes.c.weight)
    .where(select(jobs.c.id).where(jobs.c.tenant == lanes.c.tenant, *_CLAIMABLE).exists())
    .order_by(lanes.c.vtime, lanes.c.tenant)
    .limit(bindparam("limit"))
)
_NEXT_OF_LANE = (
    select(jobs.c.id, jobs.c.price_micros)
    .where(jobs.c.tenant == bindparam("tenant"), *_CLAIMABLE)
    .order_by(jobs.c.priority.desc(), jobs.c.id)
    .limit(bindparam("limit"))
)
_JOBS_AND_REQUESTS = (
    select(*COLUMNS, runs.c.request)
    .join(runs, jobs.c.run == runs.c.id)
    .where(jobs.c.id.in_(bindparam("jobs", expanding=True)))
)
_LOGS_OF = (
    select(events.c.job, events.c.body)
    .where(events.c.job.in_(bindparam("jobs", expanding=True)))
    .order_by(events.c.job, events.c.seq)
)
_CALLS_OF = (
    select(
        calls.c.run, calls.c.id, calls.c.state, calls.c.billed, calls.c.first_index, calls.c.count.label("images"),
        calls.c.price_micros, calls.c.cost_micros, calls.c.upstream, calls.c.credential, calls.c.handle,
    )
    .where(calls.c.run.in_(bindparam("runs", expanding=True)))
    .order_by(calls.c.id)
)  # fmt: skip
_TAKE = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"))
    .values(
        claim=jobs.c.claim + 1, state=bindparam("state"), claimed_by=bindparam("node"), lease_ms=bindparam("lease_ms"),
        cost_micros=bindparam("cost"),
    )
)  # fmt: skip
_CHARGE = update(lanes).where(lanes.c.tenant == bindparam("of_tenant"))
_LOSE_CALL = update(calls).where(calls.c.id == bindparam("of_call"))


def _claim_many(
    connection: Connection, upstreams: tuple[str, ...], node: str, now_ms: int, lease_ms: int, limit: int
) -> list[Claimed]:
    wanted = _share_out(connection, {"upstreams": upstreams, "now_ms": now_ms}, limit)
    if not wanted:
        return []
    rows = {row.id: row for row in connection.execute(_JOBS_AND_REQUESTS, {"jobs": wanted})}
    found = [as_record(rows[job]) for job in wanted]
    made, lost = _calls_of(connection, [job.run for job in found])
    taken = [
        replace(
            job,
            state=advance(job.state, Event.CLAIM),
            claim=job.claim + 1,
            cost_micros=job.cost_micros + lost.get(job.run, 0),
        )
        for job in found
    ]
    connection.execute(
        _TAKE,
        [
            {"of_job": job.id, "state": job.state, "node": node, "lease_ms": lease_ms, "cost": job.cost_micros}
            for job in taken
        ],
    )
    logs = _logs_of(connection, wanted)
    return [Claimed(job, decode_request(rows[job.id].request), logs[job.id], made[job.run]) for job in taken]


def _share_out(connection: Connection, wanted: dict[str, Any], limit: int) -> list[str]:
    """Choose up to `limit` jobs, each from the lane that has received least by then, and charge the lanes."""
    # One claim costs one lane one place, so no lane beyond the first `limit` can be reached.
    heap = [tuple(row) for row in connection.execute(_LANES_WITH_WORK, {**wanted, "limit": limit})]
    waiting: dict[str, deque[Row[Any]]] = {}
    charged: dict[str, dict[str, Any]] = {}
    chosen: list[str] = []
    while heap and len(chosen) < limit:
        start, tenant, weight = heapq.heappop(heap)  # they come sorted, which a heap is
        if tenant not in waiting:
            at_most = {**wanted, "tenant": tenant, "limit": limit - len(chosen)}
            waiting[tenant] = deque(connection.execute(_NEXT_OF_LANE, at_most))
        if not waiting[tenant]:
            continue
        job = waiting[tenant].popleft()
        chosen.append(job.id)
        vtime = charge(start, job.price_micros, weight)
        charged[tenant] = {"of_tenant": tenant, "start": start, "vtime": vtime}
        heapq.heappush(heap, (vtime, tenant, weight))
    if charged:
        connection.execute(_CHARGE, list(charged.values()))
    return chosen


def _logs_of(connection: Connection, wanted: Sequence[str]) -> dict[str, list[Numbered]]:
    logs: dict[str, list[Numbered]] = {job: [] for job in wanted}
    for row in connection.execute(_LOGS_OF, {"jobs": wanted}):
        logs[row.job].append(decode_event(row.body))
    return logs


def _calls_of(connection: Connection, wanted: Sequence[str]) -> tuple[dict[str, list[Call]], dict[str, int]]:
    """The calls of these runs, and what the lost ones cost.

    What became of one in `sending` a new claim cannot know: it is `unknown` from now on, and taken for billed if it was
    to be.
    """
    made: dict[str, list[Call]] = {run: [] for run in wanted}
    costs: dict[str, int] = {}
    lost = []
    for row in connection.execute(_CALLS_OF, {"runs": wanted}):
        call = Call(
            row.id, CallState(row.state), row.billed, row.first_index, row.images, row.upstream, row.credential,
            row.handle, row.price_micros, row.cost_micros,
        )  # fmt: skip
        if call.state is CallState.SENDING:
            cost = call.price_micros if call.billed else 0
            call = replace(call, state=advance_call(call.state, CallEvent.LOSE), cost_micros=cost)
            costs[row.run] = costs.get(row.run, 0) + cost
            lost.append({"of_call": call.id, "state": call.state, "cost_micros": cost})
        made[row.run].append(call)
    if lost:
        connection.execute(_LOSE_CALL, lost)
    return made, costs


# --- a claimed job's steps ----------------------------------------------------------------------------------------

_HELD = select(jobs.c.id, jobs.c.claim, jobs.c.cancel_by).where(
    jobs.c.id.in_(bindparam("jobs", expanding=True)), _AT_WORK
)
_RENEW = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"), jobs.c.claim == bindparam("of_claim"))
    .values(lease_ms=bindparam("until_ms"))
)
_PARAMETERS_AT_ONCE = 500
"""SQLite takes a limited number of them in one statement."""


def _append(connection: Connection, step: Append) -> tuple[Numbered, ...]:
    job = find_job(connection, step.job)
    if job is None or job.claim != step.claim or job.seq != step.after or job.has_ended:
        raise StaleClaim(f"claim {step.claim} of job {step.job} at {step.after} is not the job's")
    more_spent = 0 if step.call is None else _settle_call(connection, step.job, step.call)
    numbered = tuple(
        msgspec.structs.replace(event, seq=step.after + place) for place, event in enumerate(step.events, start=1)
    )
    write_events(connection, job.id, job.tenant, numbered)
    values = folded(job, numbered)
    values["lease_ms"] = step.lease_ms
    if more_spent:
        values["cost_micros"] = job.cost_micros + more_spent
    if step.step is not None:
        values["step"] = step.step
    if not change_job(connection, job, values):
        raise StaleClaim(f"claim {step.claim} of job {step.job} was taken over")
    if step.hold is not None:
        change_hold(connection, job.id, step.hold)
    return numbered


def _release(connection: Connection, job: str, claim: int, ready_ms: int, upstream: str | None) -> None:
    record = find_job(connection, job)
    if record is None or record.claim != claim or record.state not in CLAIMED:
        return
    state = advance(record.state, Event.RELEASE)
    values: dict[str, Any] = {"state": state, "claimed_by": None, "lease_ms": 0, "ready_ms": ready_ms}
    change_job(connection, record, values if upstream is None else {**values, "upstream": upstream})


def _renew(connection: Connection, claims: tuple[tuple[str, int], ...], lease_ms: int) -> dict[str, Canceler | None]:
    wanted = dict(claims)
    held: dict[str, Canceler | None] = {}
    for some in _by(_PARAMETERS_AT_ONCE, list(wanted)):
        rows = connection.execute(_HELD, {"jobs": some})
        held |= {row.id: row.cancel_by for row in rows if row.claim == wanted[row.id]}
    if held:
        connection.execute(_RENEW, [{"of_job": job, "of_claim": wanted[job], "until_ms": lease_ms} for job in held])
    return held


def _by(size: int, whole: list[str]) -> Iterable[list[str]]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _forget_claims(connection: Connection, node: str | None) -> int:
    query = update(jobs).where(_AT_WORK).values(lease_ms=0)
    if node is not None:
        query = query.where(jobs.c.claimed_by == node)
    return connection.execute(query).rowcount


# --- calls --------------------------------------------------------------------------------------------------------

_IS_HELD = select(jobs.c.id).where(jobs.c.id == bindparam("job"), jobs.c.claim == bindparam("claim"), _AT_WORK)
_INSERT_CALL = insert(calls)
_THIS_CALL = (calls.c.id == bindparam("of_call"), calls.c.job == bindparam("of_job"))
_STATE_OF_CALL = select(calls.c.state, calls.c.cost_micros).where(*_THIS_CALL)
_CHANGE_CALL = update(calls).where(*_THIS_CALL)
_ADD_COST = (
    update(jobs).where(jobs.c.id == bindparam("of_job")).values(cost_micros=jobs.c.cost_micros + bindparam("cost"))
)


def _begin_call(connection: Connection, new: NewCall, claim: int) -> None:
    _check_claim(connection, new.job, claim)
    row = {
        "id": new.id, "run": new.run, "job": new.job, "tenant": new.tenant, "upstream": new.upstream,
        "credential": new.credential, "billed": new.billed, "state": CallState.SENDING, "first_index": new.first,
        "count": new.count, "price_micros": new.price_micros, "cost_micros": 0, "sent_ms": new.sent_ms,
    }  # fmt: skip
    connection.execute(_INSERT_CALL, row)


def _note_handle(connection: Connection, job: str, claim: int, call: str, handle: str) -> None:
    _check_claim(connection, job, claim)
    connection.execute(_CHANGE_CALL, {"of_call": call, "of_job": job, "handle": handle})


def _settle_call_of(connection: Connection, job: str, claim: int, settled: CallSettled) -> None:
    _check_claim(connection, job, claim)
    more_spent = _settle_call(connection, job, settled)
    if more_spent:
        connection.execute(_ADD_COST, {"of_job": job, "cost": more_spent})


def _check_claim(connection: Connection, job: str, claim: int) -> None:
    if connection.execute(_IS_HELD, {"job": job, "claim": claim}).first() is None:
        raise StaleClaim(f"claim {claim} of job {job} was taken over")


def _settle_call(connection: Connection, job: str, settled: CallSettled) -> int:
    """Write what became of a call; returns by how much more that is than it was taken to cost before."""
    this_call = {"of_call": settled.id, "of_job": job}
    row = connection.execute(_STATE_OF_CALL, this_call).one()
    changed = {
        "state": advance_call(CallState(row.state), settled.event), "answered_ms": settled.answered_ms,
        "cost_micros": settled.cost_micros, "error": settled.error,
    }  # fmt: skip
    connection.execute(_CHANGE_CALL, {**this_call, **changed})
    return settled.cost_micros - int(row.cost_micros)


def _sent_since(connection: Connection, upstream: str, credential: str, since_ms: int) -> list[SentCall]:
    query = select(calls.c.sent_ms, calls.c.answered_ms).where(
        calls.c.upstream == upstream,
        calls.c.credential == credential,
        or_(calls.c.sent_ms >= since_ms, calls.c.answered_ms >= since_ms, calls.c.state == CallState.SENDING),
    )
    return [SentCall(row.sent_ms, row.answered_ms) for row in connection.execute(query.order_by(calls.c.sent_ms))]


def _durations(connection: Connection, upstream: str, limit: int) -> list[tuple[Request, int, int]]:
    query = (
        select(runs.c.request, calls.c.count.label("images"), calls.c.sent_ms, calls.c.answered_ms)
        .join(runs, calls.c.run == runs.c.id)
        .where(calls.c.upstream == upstream, calls.c.state == CallState.DONE, calls.c.error.is_(None))
        .order_by(calls.c.sent_ms.desc())
        .limit(limit)
    )
    rows = list(connection.execute(query))
    return [(decode_request(row.request), row.images, row.answered_ms - row.sent_ms) for row in reversed(rows)]
