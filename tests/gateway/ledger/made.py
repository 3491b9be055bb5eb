"""What the ledger's tests put into it, with as little said as the case needs."""

from typing import Any

from gateway.core.calls import CallEvent
from gateway.core.normal import Request
from gateway.core.records import Append, AssetRecord, CallSettled, Claimed, NewCall, NewJob
from gateway.ports import Ledger
from protocol.messages import Completed, ErrorBody, Failed, ImageReady, Numbered, Started, Timings

DAY_MS = 86_400_000
FOREVER_MS = 10**12
ASSET = "sha256:" + "0" * 64
UP = ["up"]


def job_id(number: int) -> str:
    """Return a job's id; a larger number is a younger job."""
    return f"{number:026d}"


def new_job(number: int, tenant: str = "t", **changes: Any) -> NewJob:
    """Return a submit that differs from others by its number."""
    fields: dict[str, Any] = {
        "id": job_id(number),
        "run": f"1{number:025d}",
        "tenant": tenant,
        "subject": "s",
        "session": None,
        "on_disconnect": "continue",
        "ref": f"r{number}",
        "body_hash": "b" * 64,
        "fingerprint": "f" * 64,
        "request": Request("txt2img", "m", f"fox {number}", "", 512, 512, 20, 7.0, 1, 2),
        "task": "txt2img",
        "upstream": "up",
        "priority": 0,
        "price_micros": 1000,
        "deadline_ms": None,
        "created_ms": 1000 + number,
        "ref_expires_ms": 1000 + number + DAY_MS,
    }
    return NewJob(**{**fields, **changes})


def new_call(number: int, job: str, **changes: Any) -> NewCall:
    """Return a call of a job."""
    fields: dict[str, Any] = {
        "id": f"2{number:025d}", "run": "1" + job[1:], "job": job, "tenant": "t", "upstream": "up",
        "credential": "default", "billed": True, "first": 0, "count": 1, "price_micros": 1000, "sent_ms": 5000,
    }  # fmt: skip
    return NewCall(**{**fields, **changes})


def answered(number: int, **changes: Any) -> CallSettled:
    """Return the good end of a call."""
    fields: dict[str, Any] = {
        "id": f"2{number:025d}", "event": CallEvent.ANSWER, "answered_ms": 6000, "cost_micros": 1000
    }  # fmt: skip
    return CallSettled(**{**fields, **changes})


def step(claimed: Claimed, *events: Numbered, **changes: Any) -> Append:
    """Return the next step of a claimed job, as its worker sees it."""
    fields: dict[str, Any] = {"after": claimed.job.seq, "lease_ms": FOREVER_MS, "events": events}
    return Append(job=claimed.job.id, claim=claimed.job.claim, **{**fields, **changes})


def started(job: str, attempt: int = 1, time_ms: int = 2000) -> Started:
    """Return the event that work has begun."""
    return Started(job=job, seq=0, time_ms=time_ms, attempt=attempt, model="m", steps=20)


def image(job: str, index: int = 0) -> ImageReady:
    """Return the event of one picture."""
    return ImageReady(job=job, seq=0, time_ms=3000, index=index, count=2, format="png", w=8, h=8, bytes=9, asset=ASSET)


def completed(job: str, time_ms: int = 4000) -> Completed:
    """Return the good end."""
    return Completed(job=job, seq=0, time_ms=time_ms, images=[], timings=Timings(0, 0, 0, 0))


def failed(job: str, time_ms: int = 4000) -> Failed:
    """Return the bad end."""
    return Failed(job=job, seq=0, time_ms=time_ms, error=ErrorBody("internal", "", retryable=True), images=[])


def asset(number: int, tenant: str = "t", expires_ms: int = 1000) -> AssetRecord:
    """Return a stored picture."""
    return AssetRecord(tenant, f"sha256:{number:064d}", "png", 8, 8, 9, expires_ms)


async def claim(
    ledger: Ledger, now_ms: int = 5000, lease_ms: int = FOREVER_MS, node: str = "n", limit: int = 1
) -> list[Claimed]:
    """Claim for the one upstream."""
    return await ledger.work.claim(UP, node, now_ms, lease_ms, limit)


async def claim_one(ledger: Ledger, now_ms: int = 5000, lease_ms: int = FOREVER_MS, node: str = "n") -> Claimed:
    """Claim the one job that there must be."""
    (claimed,) = await claim(ledger, now_ms, lease_ms, node)
    return claimed


async def end(ledger: Ledger, claimed: Claimed, time_ms: int = 4000) -> None:
    """Begin and complete a claimed job."""
    job = claimed.job.id
    await ledger.work.append(step(claimed, started(job), completed(job, time_ms), hold="settled"))


async def log_of(ledger: Ledger, job: str) -> list[Numbered]:
    """Return a job's whole log."""
    found = await ledger.jobs.log(job)
    assert found is not None
    return found[1]
