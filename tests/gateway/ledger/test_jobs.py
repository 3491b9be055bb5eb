from dataclasses import replace
from typing import Any

import pytest

from gateway.core.calls import CallEvent
from gateway.core.jobs import State
from gateway.core.records import JobRecord
from gateway.ledger import SqlLedger
from gateway.ports import Ledger
from protocol.errors import ClientFault
from protocol.messages import Accepted, Canceled, Completed
from tests.gateway.ledger.conftest import Open
from tests.gateway.ledger.made import (
    DAY_MS,
    answered,
    claim,
    claim_one,
    completed,
    end,
    job_id,
    log_of,
    new_call,
    new_job,
    started,
    step,
)


async def found(ledger: Ledger, number: int) -> JobRecord:
    """Return the job that there must be."""
    job = await ledger.jobs.find(job_id(number))
    assert job is not None
    return job


async def refusal(ledger: Ledger, **changes: Any) -> str:
    """Return the code by which a submit is refused."""
    with pytest.raises(ClientFault) as caught:
        await ledger.jobs.submit(new_job(99, **changes))
    assert await ledger.jobs.find(job_id(99)) is None
    return caught.value.code


# --- submit ---


async def test_submit_makes_job_event_and_request(ledger: Ledger) -> None:
    """What is returned is what the ledger has."""
    new = new_job(1, deadline_ms=9000, session="a" * 26)
    made = await ledger.jobs.submit(new)
    assert made.accepted == Accepted(
        job=new.id, seq=1, time_ms=1001, ref="r1", task="txt2img", model="m", cost_max_micros=1000, duplicate=False
    )
    assert (made.duplicate, made.job.state, made.job.seq) == (False, State.QUEUED, 1)
    assert await ledger.jobs.log(new.id) == (made.job, [made.accepted])
    assert await ledger.jobs.request(new.id) == new.request


async def test_submit_of_the_same_ref_and_body_returns_the_job(ledger: Ledger) -> None:
    """Whatever became of it meanwhile, and without a second job."""
    first = await ledger.jobs.submit(new_job(1))
    await end(ledger, await claim_one(ledger))
    again = await ledger.jobs.submit(new_job(1, id=job_id(2), run="x" * 26))
    assert again.duplicate
    assert again.job == await found(ledger, 1)
    assert again.accepted == Accepted(
        job=job_id(1), seq=1, time_ms=1001, ref="r1", task="txt2img", model="m", cost_max_micros=1000, duplicate=True
    )
    assert first.job.id == again.job.id
    assert await ledger.jobs.find(job_id(2)) is None


async def test_submit_of_the_same_ref_and_another_body_is_a_conflict(ledger: Ledger) -> None:
    """The client has mixed something up; nothing is written."""
    await ledger.jobs.submit(new_job(1))
    assert await refusal(ledger, ref="r1", body_hash="c" * 64) == "idempotency_conflict"


@pytest.mark.parametrize("who", [{"tenant": "other"}, {"subject": "other"}])
async def test_ref_is_of_one_subject(who: dict[str, str], ledger: Ledger) -> None:
    """Somebody else's `r1` is another."""
    await ledger.jobs.submit(new_job(1))
    assert not (await ledger.jobs.submit(new_job(2, ref="r1", body_hash="c" * 64, **who))).duplicate


async def test_ref_counts_until_its_time(ledger: Ledger) -> None:
    """Then it may stand for another job, and stands for that from then on."""
    await ledger.jobs.submit(new_job(1, ref_expires_ms=5000))
    in_time = new_job(2, ref="r1", created_ms=4999)
    assert (await ledger.jobs.submit(in_time)).duplicate
    late = new_job(3, ref="r1", created_ms=5000, body_hash="c" * 64, ref_expires_ms=9000)
    assert not (await ledger.jobs.submit(late)).duplicate
    again = await ledger.jobs.submit(replace(late, id=job_id(4), created_ms=8999))
    assert (again.duplicate, again.job.id) == (True, job_id(3))


async def test_subject_has_so_many_live_jobs_and_no_more(ledger: Ledger) -> None:
    """Ended ones do not count, nor do others'; a repeated submit is not refused."""
    for number in (1, 2):
        await ledger.jobs.submit(new_job(number, max_jobs=2))
    assert await refusal(ledger, max_jobs=2) == "concurrency_limit"
    assert (await ledger.jobs.submit(new_job(2, id=job_id(3), max_jobs=2))).duplicate
    await ledger.jobs.submit(new_job(4, subject="other", max_jobs=1))
    await ledger.jobs.submit(new_job(5, "other", max_jobs=1))
    await ledger.jobs.cancel(job_id(1), "client", 2000)
    await ledger.jobs.submit(new_job(6, max_jobs=2))
    assert await refusal(ledger, max_jobs=2) == "concurrency_limit"


async def test_queue_takes_exactly_what_it_may(ledger: Ledger) -> None:
    """Counted for each upstream; a job that is worked has left it."""
    for number in range(10):
        await ledger.jobs.submit(new_job(number, max_queue=10))
    assert await refusal(ledger, max_queue=10) == "queue_full"
    await ledger.jobs.submit(new_job(20, upstream="other", max_queue=10))
    await claim_one(ledger)
    await ledger.jobs.submit(new_job(21, created_ms=9000, max_queue=10))
    assert await refusal(ledger, created_ms=9000, max_queue=10) == "queue_full"


async def test_full_queue_is_not_counted_for_everyone_it_refuses(ledger: Ledger) -> None:
    """For a tenth of a second the last count stands, unless the clock went back; then the queue is counted again."""
    for number in range(3):
        await ledger.jobs.submit(new_job(number, created_ms=1000, max_queue=3))
    assert await refusal(ledger, created_ms=1000, max_queue=3) == "queue_full"
    await ledger.jobs.cancel(job_id(0), "client", 1000)
    assert await refusal(ledger, created_ms=1099, max_queue=3) == "queue_full"
    await ledger.jobs.submit(new_job(4, created_ms=1100, max_queue=3))
    assert await refusal(ledger, created_ms=1100, max_queue=3) == "queue_full"
    await ledger.jobs.cancel(job_id(1), "client", 1100)
    await ledger.jobs.submit(new_job(5, created_ms=10, max_queue=3))


async def test_submit_that_is_refused_leaves_nothing(ledger: SqlLedger) -> None:
    """Not even a lane or a run."""
    assert await refusal(ledger, max_queue=0) == "queue_full"
    assert await ledger.jobs.counts() == {}
    assert await ledger.jobs.request(job_id(99)) is None


# --- cancel ---


async def test_queued_job_ends_with_the_wish(ledger: Ledger) -> None:
    """It never ran, so it costs nothing and its end is told at once; nobody can claim it."""
    await ledger.jobs.submit(new_job(1))
    (event,) = await ledger.jobs.cancel(job_id(1), "deadline", 2000)
    assert event == Canceled(job=job_id(1), seq=2, time_ms=2000, by="deadline", step=0, images=[], cost_micros=0)
    job = await found(ledger, 1)
    assert (job.state, job.seq, job.ended_ms, job.cancel_by) == (State.CANCELED, 2, 2000, "deadline")
    assert await claim(ledger) == []


async def test_running_job_is_only_marked(ledger: Ledger) -> None:
    """Its worker ends it; who wished first is who is told."""
    await ledger.jobs.submit(new_job(1))
    claimed = await claim_one(ledger)
    assert await ledger.jobs.cancel(job_id(1), "client", 2000) == ()
    assert await ledger.jobs.cancel(job_id(1), "deadline", 2001) == ()
    job = await found(ledger, 1)
    assert (job.state, job.cancel_by, job.seq) == (State.CLAIMED, "client", 1)
    assert await ledger.work.renew([(job_id(1), claimed.job.claim)], 1) == {job_id(1): "client"}


async def test_released_job_that_had_begun_is_left_to_a_claim(ledger: Ledger) -> None:
    """What it delivered and cost is for a worker to settle, at once."""
    await ledger.jobs.submit(new_job(1))
    claimed = await claim_one(ledger)
    await ledger.work.append(step(claimed, started(job_id(1))))
    await ledger.work.release(job_id(1), claimed.job.claim, 90_000)
    assert await claim(ledger) == []
    assert await ledger.jobs.cancel(job_id(1), "client", 2000) == ()
    assert (await claim_one(ledger)).job.cancel_by == "client"


async def test_ended_or_unknown_job_is_left_as_it_is(ledger: Ledger) -> None:
    """A second end does not exist."""
    await ledger.jobs.submit(new_job(1))
    await end(ledger, await claim_one(ledger))
    before = await ledger.jobs.log(job_id(1))
    assert await ledger.jobs.cancel(job_id(1), "client", 9000) == ()
    assert await ledger.jobs.cancel(job_id(2), "client", 9000) == ()
    assert await ledger.jobs.log(job_id(1)) == before


async def test_overdue_jobs_are_those_nobody_has_wished_to_end(ledger: Ledger) -> None:
    """From the deadline on; a wish is enough."""
    for number, deadline_ms in ((1, 5000), (2, 5000), (3, 6000), (4, None)):
        await ledger.jobs.submit(new_job(number, deadline_ms=deadline_ms))
    await claim_one(ledger)
    assert await ledger.jobs.overdue(4999) == []
    assert sorted(await ledger.jobs.overdue(5000)) == [job_id(1), job_id(2)]
    for number in (1, 2):
        await ledger.jobs.cancel(job_id(number), "deadline", 5000)
    assert await ledger.jobs.overdue(9000) == [job_id(3)]


# --- reading ---


async def test_log_is_read_from_a_number_on(ledger: Ledger) -> None:
    """In order; an unknown job is nothing."""
    await ledger.jobs.submit(new_job(1))
    claimed = await claim_one(ledger)
    await ledger.work.append(step(claimed, started(job_id(1)), completed(job_id(1))))
    for after, numbers in ((0, [1, 2, 3]), (1, [2, 3]), (3, []), (9, [])):
        log = await ledger.jobs.log(job_id(1), after)
        assert log is not None
        assert [event.seq for event in log[1]] == numbers
        assert log[0].seq == 3
    assert await ledger.jobs.log(job_id(2)) is None
    assert await ledger.jobs.find(job_id(2)) is None
    assert await ledger.jobs.request(job_id(2)) is None


async def test_jobs_are_listed_newest_first_and_page_by_page(ledger: Ledger) -> None:
    """Only the subject's own; by ref or state if asked."""
    for number in range(1, 6):
        await ledger.jobs.submit(new_job(number))
    await ledger.jobs.submit(new_job(6, subject="other"))
    await ledger.jobs.submit(new_job(7, "other"))
    await ledger.jobs.cancel(job_id(2), "client", 2000)

    async def listed(
        ref: str | None = None, state: str | None = None, after: str | None = None, limit: int = 10
    ) -> list[str]:
        page = await ledger.jobs.listed("t", "s", ref=ref, state=state, after=after, limit=limit)
        return [job.id for job in page]

    assert await listed() == [job_id(number) for number in (5, 4, 3, 2, 1)]
    assert await listed(limit=2) == [job_id(5), job_id(4)]
    assert await listed(after=job_id(4), limit=2) == [job_id(3), job_id(2)]
    assert await listed(ref="r3") == [job_id(3)]
    assert await listed(state="canceled") == [job_id(2)]
    assert await listed(state="queued", after=job_id(3)) == [job_id(1)]


async def test_heads_are_told_for_any_number_of_jobs(ledger: Ledger) -> None:
    """Unknown ones are left out."""
    for number in range(3):
        await ledger.jobs.submit(new_job(number))
    await end(ledger, await claim_one(ledger))
    wanted = [job_id(number) for number in range(1200)]
    assert await ledger.jobs.heads(wanted) == {job_id(0): 3, job_id(1): 1, job_id(2): 1}


async def test_queue_is_told_in_the_order_of_claims(ledger: Ledger) -> None:
    """By priority and age, each upstream for itself."""
    for number, priority in ((1, 0), (2, 1), (3, 0), (4, -1)):
        await ledger.jobs.submit(new_job(number, priority=priority))
    await ledger.jobs.submit(new_job(5, upstream="other"))
    order = [job_id(number) for number in (2, 1, 3, 4)]
    assert await ledger.jobs.queue("up") == order
    assert await ledger.jobs.queue("up", 2) == order[:2]
    assert [(await claim_one(ledger)).job.id for _ in range(4)] == order
    assert await ledger.jobs.queue("up") == []


async def test_live_jobs_are_counted_by_upstream_and_state(ledger: Ledger) -> None:
    """Ended ones are not."""
    for number in range(4):
        await ledger.jobs.submit(new_job(number))
    await ledger.jobs.submit(new_job(9, upstream="other"))
    await end(ledger, await claim_one(ledger))
    claimed = await claim_one(ledger)
    await ledger.work.append(step(claimed, started(claimed.job.id)))
    await claim_one(ledger)
    assert await ledger.jobs.counts() == {
        ("up", "queued"): 1,
        ("up", "claimed"): 1,
        ("up", "running"): 1,
        ("other", "queued"): 1,
    }


# --- retention ---


async def ended(ledger: Ledger, number: int, time_ms: int, **changes: Any) -> None:
    """Submit a job and end it at that time."""
    await ledger.jobs.submit(new_job(number, **changes))
    await end(ledger, await claim_one(ledger), time_ms)


async def test_trim_leaves_the_end_of_an_old_log(ledger: Ledger) -> None:
    """The head stays what it was, so that a client sees that it missed something; younger and live jobs stay whole."""
    await ended(ledger, 1, 3000)
    await ended(ledger, 2, 5000)
    await ledger.jobs.submit(new_job(3))
    assert await ledger.jobs.trim(3000, 0) == 1
    assert [event.seq for event in await log_of(ledger, job_id(1))] == [3]
    assert isinstance((await log_of(ledger, job_id(1)))[0], Completed)
    assert [(await found(ledger, number)).trimmed for number in (1, 2, 3)] == [True, False, False]
    assert [len(await log_of(ledger, job_id(number))) for number in (2, 3)] == [3, 1]
    assert await ledger.jobs.trim(3000, 0) == 0


async def test_trim_forgets_jobs_whose_refs_have_run_out(ledger: Ledger) -> None:
    """With everything that was theirs; the ref may be used again."""
    await ended(ledger, 1, 3000)
    await ended(ledger, 2, 9000)
    assert await ledger.jobs.trim(3000, 3000) == 2
    assert await ledger.jobs.find(job_id(1)) is None
    assert await ledger.jobs.log(job_id(1)) is None
    assert await ledger.jobs.request(job_id(1)) is None
    assert not (await ledger.jobs.submit(new_job(1, created_ms=4000))).duplicate
    assert await ledger.jobs.find(job_id(2)) is not None


async def test_trim_goes_on_where_it_stopped(ledger: Ledger) -> None:
    """Bounded, so that no writer waits long for it."""
    for number in range(5):
        await ended(ledger, number, 3000)
    assert [await ledger.jobs.trim(3000, 0, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [await ledger.jobs.trim(3000, 3000, limit=3) for _ in range(3)] == [3, 2, 0]


async def test_money_of_unknown_outcome_is_never_forgotten(ledger: Ledger) -> None:
    """A job whose hold was spent on who knows what stays listed, with its call."""
    await ledger.jobs.submit(new_job(1))
    claimed = await claim_one(ledger)
    await ledger.work.begin_call(new_call(1, job_id(1)), claimed.job.claim)
    lost = answered(1, event=CallEvent.LOSE)
    await ledger.work.append(step(claimed, started(job_id(1)), completed(job_id(1)), call=lost, hold="spent_unknown"))
    await ledger.jobs.trim(DAY_MS, DAY_MS)
    assert (await found(ledger, 1)).trimmed


async def test_lanes_of_tenants_that_left_are_forgotten(ledger: Ledger) -> None:
    """One that comes back comes in where everybody else is; nobody's turn changes by it."""
    await ended(ledger, 1, 3000, tenant="left")
    for number in range(2, 6):
        await ledger.jobs.submit(new_job(number, "busy"))
        await claim_one(ledger)
    await ledger.jobs.submit(new_job(6, "busy"))
    assert await ledger.jobs.trim(0, 0) == 1
    await ledger.jobs.submit(new_job(7, "left"))
    await ledger.jobs.submit(new_job(8, "left"))
    assert [one.job.tenant for one in await claim(ledger, limit=3)] == ["left", "busy", "left"]


async def test_trim_survives_a_restart(reopen: Open) -> None:
    """What was cut stays cut."""
    async with reopen() as ledger:
        await ended(ledger, 1, 3000)
        await ledger.jobs.trim(3000, 0)
    async with reopen() as ledger:
        assert len(await log_of(ledger, job_id(1))) == 1
