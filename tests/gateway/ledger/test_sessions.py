from dataclasses import replace

import pytest

from gateway.core.records import Plan, SessionRecord
from gateway.core.scopes import Restriction
from gateway.ports import Ledger
from protocol.errors import ClientFault
from tests.gateway.ledger.made import claim_one, end, job_id, new_job

FIRST = SessionRecord("a" * 26, "t", "s", 1)


async def opened(ledger: Ledger, expires_ms: int = 1000) -> None:
    """Open the first session."""
    await ledger.accounts.add_tenant("t", Plan(), 0)
    assert await ledger.sessions.open(FIRST, 0, expires_ms) == FIRST


async def test_resume_raises_the_generation(ledger: Ledger) -> None:
    """Each connection that takes the session over has a number of its own."""
    await opened(ledger)
    for generation in (2, 3):
        resumed = await ledger.sessions.resume(FIRST.id, "t", "s", 999, 1000)
        assert resumed == SessionRecord(FIRST.id, "t", "s", generation)


async def test_resume_is_for_the_same_subject_in_time(ledger: Ledger) -> None:
    """Somebody else's, an unknown one and one whose time is over are all nothing, and stay as they are."""
    await opened(ledger)
    for session, tenant, subject, now_ms in (
        (FIRST.id, "other", "s", 0),
        (FIRST.id, "t", "other", 0),
        ("b" * 26, "t", "s", 0),
        (FIRST.id, "t", "s", 1000),
    ):
        assert await ledger.sessions.resume(session, tenant, subject, now_ms, 9000) is None
    resumed = await ledger.sessions.resume(FIRST.id, "t", "s", 999, 9000)
    assert resumed is not None
    assert resumed.generation == 2


async def test_session_is_renewed_by_who_has_its_generation(ledger: Ledger) -> None:
    """A connection that was replaced is told so, and does not prolong it."""
    await opened(ledger)
    await ledger.sessions.resume(FIRST.id, "t", "s", 0, 1000)
    assert await ledger.sessions.renew([(FIRST.id, 1), ("b" * 26, 1)], 5000) == set()
    assert await ledger.sessions.expired(1000) == [FIRST.id]
    assert await ledger.sessions.renew([(FIRST.id, 2)], 5000) == {FIRST.id}
    assert await ledger.sessions.expired(4999) == []
    assert await ledger.sessions.renew([], 5000) == set()


async def test_session_that_nobody_renews_runs_out(ledger: Ledger) -> None:
    """A node that dies without a word ends its sessions by doing nothing."""
    await opened(ledger)
    assert await ledger.sessions.expired(999) == []
    assert await ledger.sessions.expired(1000) == [FIRST.id]
    assert await ledger.sessions.expired(1000, limit=0) == []


async def test_end_returns_the_live_jobs_to_be_canceled_with_it(ledger: Ledger) -> None:
    """Those that go on, and those that have ended, only leave it."""
    await opened(ledger)
    for number, wish in ((1, "cancel"), (2, "cancel"), (3, "continue")):
        await ledger.jobs.submit(new_job(number, session=FIRST.id, on_disconnect=wish))
    await ledger.jobs.submit(new_job(4, on_disconnect="cancel"))
    await end(ledger, await claim_one(ledger))
    assert await ledger.sessions.end(FIRST.id) == [job_id(2)]
    doomed = await ledger.jobs.find(job_id(2))  # also if the one who ended it dies before it acts
    assert doomed is not None
    assert doomed.cancel_by == "session"
    assert await ledger.jobs.of_session(FIRST.id) == []
    assert await ledger.sessions.end(FIRST.id) == []
    assert await ledger.sessions.resume(FIRST.id, "t", "s", 0, 9000) is None


async def test_jobs_of_a_session_are_told_oldest_first(ledger: Ledger) -> None:
    """Ended or not, until the client has handled the end."""
    await opened(ledger)
    for number in (2, 1):
        await ledger.jobs.submit(new_job(number, session=FIRST.id))
    await end(ledger, await claim_one(ledger))
    assert await ledger.jobs.of_session(FIRST.id) == [job_id(1), job_id(2)]
    await ledger.jobs.leave_session(job_id(1), "b" * 26)
    assert len(await ledger.jobs.of_session(FIRST.id)) == 2
    await ledger.jobs.leave_session(job_id(1), FIRST.id)
    assert await ledger.jobs.of_session(FIRST.id) == [job_id(2)]


async def test_job_goes_to_the_session_that_asked_for_it_last(ledger: Ledger) -> None:
    """A submit repeated on a new session is resumed there."""
    await opened(ledger)
    await ledger.jobs.submit(new_job(1, session=FIRST.id))
    made = await ledger.jobs.submit(new_job(1, id=job_id(2), session="b" * 26))
    assert made.duplicate
    assert made.job.session == "b" * 26
    assert await ledger.jobs.of_session(FIRST.id) == []
    assert await ledger.jobs.of_session("b" * 26) == [job_id(1)]
    assert not (await ledger.jobs.submit(new_job(3))).duplicate


async def test_restriction_stays_with_the_session(ledger: Ledger) -> None:
    """Whoever resumes it has no more than its tickets left, and a narrower one narrows it for good."""
    await ledger.accounts.add_tenant("t", Plan(), 0)
    few = Restriction(models=("a", "b"), max_cost_micros=500)
    await ledger.sessions.open(replace(FIRST, restriction=few), 0, 1000)
    for told, left in (
        (Restriction(), few),
        (Restriction(models=("b", "c")), Restriction(models=("b",), max_cost_micros=500)),
        (Restriction(max_cost_micros=900), Restriction(models=("b",), max_cost_micros=500)),
    ):
        resumed = await ledger.sessions.resume(FIRST.id, "t", "s", 0, 1000, told)
        assert resumed is not None
        assert resumed.restriction == left


async def test_jobs_of_a_session_cost_no_more_than_it_may(ledger: Ledger) -> None:
    """All together, whether they still run or not; the same ref again costs nothing."""
    await opened(ledger)
    first = replace(new_job(1, session=FIRST.id), price_micros=300, session_cost_micros=500)
    await ledger.jobs.submit(first)
    assert (await ledger.jobs.submit(first)).duplicate
    await ledger.sessions.end("b" * 26)
    with pytest.raises(ClientFault) as fault:
        await ledger.jobs.submit(replace(new_job(2, session=FIRST.id), price_micros=201, session_cost_micros=500))
    assert (fault.value.code, fault.value.details) == (
        "max_cost_exceeded",
        {"cost_max_micros": 201, "session_max_cost_micros": 500},
    )
    await ledger.jobs.submit(replace(new_job(3, session=FIRST.id), price_micros=200, session_cost_micros=500))
