from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.calls import Call, CallEvent, CallState
from gateway.core.jobs import IllegalTransition, State
from gateway.core.records import Claimed, SentCall, StaleClaim
from gateway.ports import Ledger
from tests.gateway.ledger.made import (
    FOREVER_MS,
    UP,
    answered,
    claim,
    claim_one,
    completed,
    end,
    failed,
    image,
    job_id,
    log_of,
    new_call,
    new_job,
    started,
    step,
)


async def submit(ledger: Ledger, *numbers: int, tenant: str = "t", **changes: Any) -> None:
    """Submit jobs with these numbers."""
    for number in numbers:
        await ledger.jobs.submit(new_job(number, tenant, **changes))


async def everything(ledger: Ledger, number: int = 1) -> object:
    """Return all that there is of a job, to compare."""
    calls = await ledger.work.sent_since("up", "default", 0)
    return await ledger.jobs.log(job_id(number)), calls


# --- claims ---


async def test_claim_hands_over_all_that_a_worker_needs(ledger: Ledger) -> None:
    """The job as it is from now on, its request and its log."""
    made = await ledger.jobs.submit(new_job(1))
    (claimed,) = await ledger.work.claim(UP, "node", 5000, 9000, 1)
    assert claimed.request == new_job(1).request
    assert (claimed.log, claimed.calls) == ([made.accepted], [])
    assert (claimed.job.state, claimed.job.claim, claimed.job.seq) == (State.CLAIMED, 1, 1)
    assert await ledger.jobs.find(job_id(1)) == claimed.job


async def test_job_is_claimed_once(ledger: Ledger) -> None:
    """Until its lease has run out, nobody else gets it."""
    await submit(ledger, 1)
    assert len(await claim(ledger, now_ms=5000, lease_ms=6000, limit=10)) == 1
    assert await claim(ledger, now_ms=5999) == []
    again = await claim_one(ledger, now_ms=6000)
    assert again.job.claim == 2


async def test_claim_is_for_one_upstream(ledger: Ledger) -> None:
    """Or for several that are named."""
    await submit(ledger, 1, upstream="a")
    await submit(ledger, 2, upstream="b")
    assert await ledger.work.claim(["c"], "n", 5000, FOREVER_MS, 9) == []
    assert [one.job.id for one in await ledger.work.claim(["b"], "n", 5000, FOREVER_MS, 9)] == [job_id(2)]
    await submit(ledger, 3, upstream="b")
    assert [one.job.id for one in await ledger.work.claim(["a", "b"], "n", 5000, FOREVER_MS, 9)] == [
        job_id(1),
        job_id(3),
    ]


async def test_claim_takes_by_priority_and_then_by_age(ledger: Ledger) -> None:
    """Whatever the order in which they came."""
    for number, priority in ((5, 0), (2, -1), (4, 1), (3, 0), (1, -1), (6, 1)):
        await submit(ledger, number, priority=priority)
    one_by_one = [(await claim_one(ledger)).job.id for _ in range(3)]
    together = [one.job.id for one in await claim(ledger, limit=10)]
    assert one_by_one + together == [job_id(number) for number in (4, 6, 3, 5, 1, 2)]


async def test_lost_job_takes_its_place_by_priority_and_age(ledger: Ledger) -> None:
    """One whose lease ran out is neither first nor last for that."""
    await submit(ledger, 2)
    await claim_one(ledger, lease_ms=6000)
    await submit(ledger, 1, 3)
    assert [one.job.id for one in await claim(ledger, now_ms=6000, limit=3)] == [job_id(1), job_id(2), job_id(3)]


async def test_nobody_claims_more_than_he_asked_for(ledger: Ledger) -> None:
    """Nor anything, if there is nothing."""
    assert await claim(ledger, limit=5) == []
    await submit(ledger, *range(5))
    assert [len(await claim(ledger, limit=limit)) for limit in (0, 3, 3, 3)] == [0, 3, 2, 0]


@pytest.mark.parametrize("at_once", [1, 3, 32])
async def test_claims_are_shared_by_weight(at_once: int, ledger: Ledger) -> None:
    """Busy tenants get shares like their weights, however many jobs are claimed in one transaction."""
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    for place, (tenant, weight) in enumerate(weights.items()):
        await submit(ledger, *range(place * 100, place * 100 + 70), tenant=tenant, weight=weight)
    served: Counter[str] = Counter()
    while served.total() < 96:
        for one in await claim(ledger, limit=min(at_once, 96 - served.total())):
            served[one.job.tenant] += 1
    assert [served[tenant] for tenant in weights] == [pytest.approx(96 * part / 8, abs=1) for part in (1, 2, 5)]


async def test_claims_are_shared_by_weight_while_few_are_worked_at_once(ledger: Ledger) -> None:
    """A lane that waits its turn keeps what it is owed: two places, and three to one all the same."""
    await submit(ledger, *range(60), tenant="a", weight=3.0)
    await submit(ledger, *range(100, 160), tenant="b", weight=1.0)
    served: Counter[str] = Counter()
    working = await claim(ledger, limit=2)
    for _ in range(60):
        first = working.pop(0)
        served[first.job.tenant] += 1
        await end(ledger, first)
        working += await claim(ledger)
    assert served["a"] == pytest.approx(45, abs=2)


async def test_dear_jobs_are_fewer(ledger: Ledger) -> None:
    """Lanes share money, not numbers."""
    await submit(ledger, *range(40), tenant="a", price_micros=3000)
    await submit(ledger, *range(100, 140), tenant="b", price_micros=1000)
    served = Counter(one.job.tenant for one in await claim(ledger, limit=40))
    assert served["b"] == pytest.approx(30, abs=1)


async def test_idle_lane_saves_nothing_up(ledger: Ledger) -> None:
    """Who comes back after others had a hundred jobs is served like them from then on."""
    await submit(ledger, 0, tenant="idle")
    await submit(ledger, *range(100, 300), tenant="busy")
    await claim(ledger, limit=101)
    await submit(ledger, *range(1, 51), tenant="idle")
    served = Counter(one.job.tenant for one in await claim(ledger, limit=40))
    assert served["idle"] == pytest.approx(20, abs=1)


async def test_new_lane_comes_in_where_the_others_are(ledger: Ledger) -> None:
    """It owes nothing and is owed nothing."""
    await submit(ledger, *range(200), tenant="busy")
    await claim(ledger, limit=100)
    await submit(ledger, *range(300, 350), tenant="new")
    served = Counter(one.job.tenant for one in await claim(ledger, limit=40))
    assert served["new"] == pytest.approx(20, abs=1)


async def test_lane_with_waiting_work_is_not_moved_by_another_upstream(ledger: Ledger) -> None:
    """What fast work elsewhere received does not put a slow queue's tenants on one level."""
    await submit(ledger, *range(40), tenant="a", upstream="slow", weight=3.0)
    await submit(ledger, *range(100, 140), tenant="b", upstream="slow", weight=1.0)
    await submit(ledger, *range(200, 300), tenant="c", upstream="fast")
    served: Counter[str] = Counter()
    for number in range(32):
        await ledger.work.claim(["fast"], "n", 5000, FOREVER_MS, 3)
        await submit(ledger, 400 + number, tenant="ab"[number % 2], upstream="slow", weight=[3.0, 1.0][number % 2])
        served.update(one.job.tenant for one in await ledger.work.claim(["slow"], "n", 5000, FOREVER_MS, 1))
    assert served["a"] == pytest.approx(24, abs=1)


async def test_weight_is_the_one_of_the_newest_submit(ledger: Ledger) -> None:
    """A plan that changed counts from the next job on."""
    for number in range(0, 100, 2):
        await submit(ledger, number, tenant="a")
        await submit(ledger, number + 1, tenant="b")
    await submit(ledger, 200, tenant="a", weight=3.0)
    served = Counter(one.job.tenant for one in await claim(ledger, limit=40))
    assert served["a"] == pytest.approx(30, abs=1)


# --- leases ---


async def test_renewing_keeps_a_lease_and_tells_who_wishes_an_end(ledger: Ledger) -> None:
    """For as many as are worked; what was taken over, has ended or was never there is not among them."""
    await submit(ledger, *range(4))
    held = {one.job.id: one.job.claim for one in await claim(ledger, lease_ms=6000, limit=4)}
    await ledger.jobs.cancel(job_id(1), "operator", 5500)
    (taken,) = await claim(ledger, now_ms=6000)
    assert taken.job.id == job_id(0)
    last = await ledger.jobs.find(job_id(3))
    assert last is not None
    await ledger.work.append(step(replace(taken, job=last), failed(job_id(3))))
    kept = await ledger.work.renew([*held.items(), (job_id(9), 1)], 8000)
    assert kept == {job_id(1): "operator", job_id(2): None}
    assert await claim(ledger, now_ms=7999, limit=9) == []
    assert [one.job.id for one in await claim(ledger, now_ms=8000, limit=9)] == [job_id(1), job_id(2)]


async def test_renewing_is_possible_for_any_number(ledger: Ledger) -> None:
    """More than one statement takes."""
    await submit(ledger, 1)
    await claim_one(ledger)
    many = [(job_id(number), 1) for number in range(1200)]
    assert await ledger.work.renew(many, FOREVER_MS) == {job_id(1): None}
    assert await ledger.work.renew([], FOREVER_MS) == {}


async def test_released_job_is_claimed_again_from_its_time_on(ledger: Ledger) -> None:
    """Queued as before, with its log."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    await ledger.work.append(step(claimed, started(job_id(1))))
    await ledger.work.release(job_id(1), claimed.job.claim, 7000)
    job = await ledger.jobs.find(job_id(1))
    assert job is not None
    assert job.state is State.QUEUED
    assert await claim(ledger, now_ms=6999) == []
    again = await claim_one(ledger, now_ms=7000)
    assert (again.job.claim, again.job.attempt, again.job.step) == (2, 1, 0)
    assert [event.seq for event in again.log] == [1, 2]


async def test_stale_release_does_nothing(ledger: Ledger) -> None:
    """Neither a second one, nor one of a job that was taken over or never was."""
    await submit(ledger, 1)
    first = await claim_one(ledger, lease_ms=6000)
    second = await claim_one(ledger, now_ms=6000)
    before = await everything(ledger)
    await ledger.work.release(job_id(1), first.job.claim, 0)
    await ledger.work.release(job_id(2), 1, 0)
    assert await everything(ledger) == before
    await ledger.work.release(job_id(1), second.job.claim, 9000)
    await ledger.work.release(job_id(1), second.job.claim, 0)
    assert await claim(ledger, now_ms=8999) == []


async def test_start_forgets_the_claims_of_before(ledger: Ledger) -> None:
    """All of them, or one node's."""
    await submit(ledger, 1, 2, 3)
    for node in ("a", "b", "b"):
        await claim_one(ledger, node=node)
    assert await ledger.work.forget_claims("b") == 2
    assert sorted(one.job.id for one in await claim(ledger, limit=9)) == [job_id(2), job_id(3)]
    assert await ledger.work.forget_claims() == 3
    assert len(await claim(ledger, limit=9)) == 3


# --- append ---


async def test_append_numbers_events_and_folds_them_into_the_job(ledger: Ledger) -> None:
    """Row and log change together, from the same moment on."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger, lease_ms=6000)
    job = job_id(1)
    numbered = await ledger.work.append(step(claimed, started(job), image(job), lease_ms=9000, step=7))
    assert [event.seq for event in numbered] == [2, 3]
    assert await log_of(ledger, job) == [*claimed.log, *numbered]
    row = await ledger.jobs.find(job)
    assert row is not None
    assert (row.state, row.seq, row.attempt, row.step, row.started_ms) == (State.RUNNING, 3, 1, 7, 2000)
    assert await claim(ledger, now_ms=8999) == []
    (end,) = await ledger.work.append(step(claimed, completed(job), after=3, hold="settled"))
    row = await ledger.jobs.find(job)
    assert row is not None
    assert (end.seq, row.state, row.ended_ms, row.has_ended) == (4, State.COMPLETED, 4000, True)
    assert await claim(ledger, now_ms=FOREVER_MS + 1) == []


async def test_append_without_events_renews_the_lease(ledger: Ledger) -> None:
    """And keeps the step, so that a canceled job can say how far it was."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger, lease_ms=6000)
    assert await ledger.work.append(step(claimed, lease_ms=9000, step=3)) == ()
    assert await claim(ledger, now_ms=8999) == []
    assert (await claim_one(ledger, now_ms=9000)).job.step == 3


async def test_second_attempt_keeps_the_first_start(ledger: Ledger) -> None:
    """How long a job waited does not grow when its work begins anew; its steps do begin anew."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    job = job_id(1)
    await ledger.work.append(step(claimed, started(job), step=9))
    await ledger.work.append(step(claimed, started(job, attempt=2, time_ms=7000), after=2))
    row = await ledger.jobs.find(job)
    assert row is not None
    assert (row.attempt, row.started_ms, row.step) == (2, 2000, 0)


async def test_append_settles_its_call_with_it(ledger: Ledger) -> None:
    """The cost is the job's from the same moment on."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger, lease_ms=6000)
    job = job_id(1)
    await ledger.work.begin_call(new_call(1, job), claimed.job.claim)
    await ledger.work.append(step(claimed, started(job), image(job), call=answered(1), lease_ms=6000))
    row = await ledger.jobs.find(job)
    assert row is not None
    assert row.cost_micros == 1000
    again = await claim_one(ledger, now_ms=6000)
    assert again.calls == [
        Call(
            new_call(1, job).id, CallState.DONE, billed=True, first=0, count=1, upstream="up", credential="default",
            price_micros=1000, cost_micros=1000,
        )
    ]  # fmt: skip
    assert again.delivered == {0}
    assert [picture.seq for picture in again.images] == [3]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda job: {"events": (failed(job), started(job)), "call": answered(1)}, id="begin after end"),
        pytest.param(lambda job: {"events": (failed(job), image(job)), "call": answered(1)}, id="picture after end"),
        pytest.param(lambda job: {"events": (completed(job),), "call": answered(1)}, id="end before begin"),
        pytest.param(lambda job: {"events": (started(job),), "call": answered(2)}, id="unknown call"),
        pytest.param(
            lambda job: {"events": (started(job),), "call": answered(1, event=CallEvent.FIND)}, id="illegal end"
        ),
    ],
)
async def test_append_is_whole_or_nothing(wrong: Callable[[str], dict[str, Any]], ledger: Ledger) -> None:
    """Neither the call nor an event nor the lease changes if any part is refused."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger, lease_ms=6000)
    await ledger.work.begin_call(new_call(1, job_id(1)), claimed.job.claim)
    before = await everything(ledger)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - a bug's own exception; what counts is what stays
        await ledger.work.append(step(claimed, lease_ms=9000, **wrong(job_id(1))))
    assert not isinstance(caught.value, StaleClaim)
    assert await everything(ledger) == before
    again = await claim_one(ledger, now_ms=6000)
    assert [call.state for call in again.calls] == [CallState.UNKNOWN]


async def test_job_does_not_end_twice(ledger: Ledger) -> None:
    """Not in one step, and not in two."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    job = job_id(1)
    with pytest.raises(IllegalTransition):
        await ledger.work.append(step(claimed, started(job), completed(job), failed(job)))
    await ledger.work.append(step(claimed, started(job), completed(job)))
    with pytest.raises(StaleClaim):
        await ledger.work.append(step(claimed, failed(job), after=3))
    assert len(await log_of(ledger, job)) == 3


Deed = Callable[[Ledger, Claimed], Awaitable[object]]
DEEDS: dict[str, Deed] = {
    "append": lambda ledger, mine: ledger.work.append(step(mine, started(mine.job.id))),
    "renew by append": lambda ledger, mine: ledger.work.append(step(mine)),
    "append with a call": lambda ledger, mine: ledger.work.append(step(mine, started(mine.job.id), call=answered(1))),
    "begin a call": lambda ledger, mine: ledger.work.begin_call(new_call(2, mine.job.id), mine.job.claim),
    "settle a call": lambda ledger, mine: ledger.work.settle_call(mine.job.id, mine.job.claim, answered(1)),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
@pytest.mark.parametrize("then", ["taken over", "released", "ended", "unknown"])
async def test_stale_worker_changes_nothing(deed: Deed, then: str, ledger: Ledger) -> None:
    """Whatever it tries, whoever has the job meanwhile, it hears `StaleClaim` and leaves no trace."""
    await submit(ledger, 1)
    mine = await claim_one(ledger, lease_ms=6000)
    await ledger.work.begin_call(new_call(1, job_id(1)), mine.job.claim)
    if then == "taken over":
        await claim_one(ledger, now_ms=6000)
    elif then == "released":
        await ledger.work.release(job_id(1), mine.job.claim, 0)
        await claim_one(ledger)
    elif then == "ended":
        await end(ledger, mine)
    else:
        mine = replace(mine, job=replace(mine.job, id=job_id(7)))
    before = await everything(ledger)
    with pytest.raises(StaleClaim):
        await deed(ledger, mine)
    assert await everything(ledger) == before


async def test_append_behind_the_log_is_stale(ledger: Ledger) -> None:
    """Also with the right claim: a step that was repeated writes once."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    once = step(claimed, started(job_id(1)))
    await ledger.work.append(once)
    for after in (1, 3):
        with pytest.raises(StaleClaim, match=f"claim 1 of job {job_id(1)} at {after} is not the job's"):
            await ledger.work.append(step(claimed, image(job_id(1)), after=after))
    assert len(await log_of(ledger, job_id(1))) == 2


# --- calls ---


async def test_call_that_nobody_settled_is_unknown_to_the_next_claim(ledger: Ledger) -> None:
    """What was being sent when a worker was lost may have been done; what is known stays known."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger, lease_ms=6000)
    for number in range(1, 5):
        await ledger.work.begin_call(new_call(number, job_id(1), billed=number % 2 == 0, first=number), 1)
    await ledger.work.settle_call(job_id(1), 1, answered(1))
    await ledger.work.settle_call(job_id(1), 1, answered(2, event=CallEvent.REFUSE, error="rate_limited"))
    await ledger.work.settle_call(job_id(1), 1, answered(3, event=CallEvent.PROVE_NOT_SENT))
    assert claimed.calls == []
    again = await claim_one(ledger, now_ms=6000)
    assert [(call.state, call.billed, call.first) for call in again.calls] == [
        (CallState.DONE, False, 1),
        (CallState.REFUSED, True, 2),
        (CallState.NOT_SENT, False, 3),
        (CallState.UNKNOWN, True, 4),
    ]
    await ledger.work.settle_call(job_id(1), 2, answered(4, event=CallEvent.FIND))
    with pytest.raises(ValueError, match="a call that is done cannot lose"):
        await ledger.work.settle_call(job_id(1), 2, answered(4, event=CallEvent.LOSE))


async def test_call_is_settled_for_its_own_job(ledger: Ledger) -> None:
    """A worker cannot touch another's call, not even by mistake."""
    await submit(ledger, 1, 2)
    for one in await claim(ledger, lease_ms=6000, limit=2):
        await ledger.work.begin_call(new_call(int(one.job.id), one.job.id), one.job.claim)
    with pytest.raises(Exception, match="No row was found"):
        await ledger.work.settle_call(job_id(1), 1, answered(2))
    assert {one.calls[0].state for one in await claim(ledger, now_ms=6000, limit=2)} == {CallState.UNKNOWN}


async def test_call_is_begun_once(ledger: Ledger) -> None:
    """Its id is its own; the second row is refused and the first stays."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    await ledger.work.begin_call(new_call(1, job_id(1)), claimed.job.claim)
    with pytest.raises(Exception, match="UNIQUE"):
        await ledger.work.begin_call(new_call(1, job_id(1), sent_ms=9), claimed.job.claim)
    assert await ledger.work.sent_since("up", "default", 0) == [SentCall(5000, None)]


async def test_calls_of_a_window_are_told_for_its_mirror(ledger: Ledger) -> None:
    """Those sent in it, those answered in it, and those of which nothing is known; each upstream for itself."""
    await submit(ledger, 1)
    claimed = await claim_one(ledger)
    for number, sent_ms, upstream in ((1, 1000, "up"), (2, 2000, "up"), (3, 3000, "up"), (4, 3500, "other")):
        await ledger.work.begin_call(new_call(number, job_id(1), sent_ms=sent_ms, upstream=upstream), claimed.job.claim)
    await ledger.work.settle_call(job_id(1), 1, answered(1, answered_ms=1500))
    await ledger.work.settle_call(job_id(1), 1, answered(2, answered_ms=2600))
    assert await ledger.work.sent_since("up", "default", 2600) == [SentCall(2000, 2600), SentCall(3000, None)]
    assert await ledger.work.sent_since("up", "default", 1500) == [
        SentCall(1000, 1500),
        SentCall(2000, 2600),
        SentCall(3000, None),
    ]
    assert await ledger.work.sent_since("up", "default", 9000) == [SentCall(3000, None)]
