"""What the ledger's modules share: rows to records, the log, and how events fold into a job's row."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select

from gateway.core.jobs import State, advance, cause
from gateway.core.records import JobRecord
from gateway.core.requests import Request
from gateway.ledger.schema import events, jobs, runs
from protocol.messages import Numbered, Started

COLUMNS = [jobs.c[name] for name in JobRecord.__dataclass_fields__]
encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(Numbered).decode
_decode_request = msgspec.json.Decoder(Request).decode


def as_record(row: Row[Any]) -> JobRecord:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return JobRecord(**{**values, "state": State(values["state"])})


def find_job(connection: Connection, job: str) -> JobRecord | None:
    row = connection.execute(select(*COLUMNS).where(jobs.c.id == job)).one_or_none()
    return None if row is None else as_record(row)


def read_log(connection: Connection, job: str, after: int) -> list[Numbered]:
    query = select(events.c.body).where(events.c.job == job, events.c.seq > after).order_by(events.c.seq)
    return [_decode_event(body) for body in connection.scalars(query)]


def request_of(connection: Connection, job: str) -> Request | None:
    query = select(runs.c.request).join(jobs, jobs.c.run == runs.c.id).where(jobs.c.id == job)
    body = connection.scalar(query)
    return None if body is None else _decode_request(body)


def write_events(connection: Connection, job: str, tenant: str, numbered: Sequence[Numbered]) -> None:
    if numbered:
        rows = [{"job": job, "tenant": tenant, "seq": event.seq, "body": encode(event)} for event in numbered]
        connection.execute(insert(events), rows)


def folded(job: JobRecord, numbered: Sequence[Numbered]) -> dict[str, Any]:
    """The columns of a job's row after these events."""
    values: dict[str, Any] = {"seq": job.seq + len(numbered)}
    state = job.state
    for event in numbered:
        happened = cause(event)
        if happened is None:
            continue
        state = advance(state, happened)
        if isinstance(event, Started):
            values |= {"attempt": event.attempt, "started_ms": event.time_ms, "step": 0}
        else:
            values |= {"ended_ms": event.time_ms, "claimed_by": None}
    values["state"] = state
    return values
