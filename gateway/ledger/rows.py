"""What the ledger's modules share: rows to records, the log, and how events fold into a job's row.

Statements that run for every job stand at the head of their module and are made once: making one costs three times
what running it does (200 us against 50). What varies is a parameter, whose name differs from every column of a table
that the statement writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from gateway.core.jobs import ENDED, IllegalTransition, State, advance, cause
from gateway.core.normal import Request
from gateway.core.records import JobRecord
from gateway.ledger.schema import events, holds, jobs, runs
from protocol.messages import Numbered, Started

FIELDS = tuple(JobRecord.__dataclass_fields__)
COLUMNS = tuple(jobs.c[name] for name in FIELDS)

_FIND_JOB = select(*COLUMNS).where(jobs.c.id == bindparam("job"))
_READ_LOG = (
    select(events.c.body)
    .where(events.c.job == bindparam("job"), events.c.seq > bindparam("after"))
    .order_by(events.c.seq)
)
_REQUEST_OF = select(runs.c.request).join(jobs, jobs.c.run == runs.c.id).where(jobs.c.id == bindparam("job"))
_WRITE_EVENTS = insert(events)
_CHANGE_JOB = update(jobs).where(
    jobs.c.id == bindparam("of_job"), jobs.c.claim == bindparam("of_claim"), jobs.c.seq == bindparam("of_seq")
)
_CHANGE_HOLD = update(holds).where(holds.c.job == bindparam("of_job"))

encode = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(Numbered).decode
decode_request = msgspec.json.Decoder(Request).decode


def as_record(row: Sequence[Any]) -> JobRecord:
    """Return the job of a row that begins with `COLUMNS`."""
    values = dict(zip(FIELDS, row, strict=False))
    values["state"] = State(values["state"])
    return JobRecord(**values)


def find_job(connection: Connection, job: str) -> JobRecord | None:
    """Return a job's row."""
    row = connection.execute(_FIND_JOB, {"job": job}).one_or_none()
    return None if row is None else as_record(row)


def read_log(connection: Connection, job: str, after: int) -> list[Numbered]:
    """Return a job's events with `seq > after`, in order."""
    return [decode_event(body) for body in connection.scalars(_READ_LOG, {"job": job, "after": after})]


def request_of(connection: Connection, job: str) -> Request | None:
    """Return the normal form that a job runs."""
    body = connection.scalar(_REQUEST_OF, {"job": job})
    return None if body is None else decode_request(body)


def write_events(connection: Connection, job: str, tenant: str, numbered: Sequence[Numbered]) -> None:
    """Insert numbered events into a job's log."""
    if numbered:
        rows = [{"job": job, "tenant": tenant, "seq": event.seq, "body": encode(event)} for event in numbered]
        connection.execute(_WRITE_EVENTS, rows)


def change_job(connection: Connection, job: JobRecord, values: Mapping[str, Any]) -> bool:
    """Change a job's row if it still has the claim and the log that the record has; `False` if not."""
    unchanged = {"of_job": job.id, "of_claim": job.claim, "of_seq": job.seq}
    return connection.execute(_CHANGE_JOB, {**values, **unchanged}).rowcount == 1


def change_hold(connection: Connection, job: str, state: str) -> None:
    """Change what a job's hold has come to."""
    connection.execute(_CHANGE_HOLD, {"of_job": job, "state": state})


def folded(job: JobRecord, numbered: Sequence[Numbered]) -> dict[str, Any]:
    """The columns of a job's row after these events."""
    values: dict[str, Any] = {"seq": job.seq + len(numbered)}
    state = job.state
    for event in numbered:
        if state in ENDED:
            raise IllegalTransition(f"a {state} job has nothing behind its end")
        happened = cause(event)
        if happened is None:
            continue
        state = advance(state, happened)
        if isinstance(event, Started):
            first = event.time_ms if job.started_ms is None else job.started_ms
            values |= {"attempt": event.attempt, "started_ms": first, "step": 0}
        else:
            values |= {"ended_ms": event.time_ms, "claimed_by": None}
    values["state"] = state
    return values
