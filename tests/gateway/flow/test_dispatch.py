"""Who works what, when: places, fairness, leases, wishes of others, and the drain."""

import asyncio
from pathlib import Path

import pytest

from gateway.core.reports import Outcome
from gateway.flow.gate import Gate
from protocol.ladder import Rung
from protocol.messages import Canceled, Completed, Failed, Started
from tests.gateway.flow.studio import (
    ScriptedUpstream,
    Spectator,
    fails,
    fault,
    kinds,
    open_studio,
    paints,
    patiently,
    soon,
    until,
)
from tests.gateway.parts import LEASE_MS


@patiently
async def test_no_more_jobs_are_claimed_than_there_are_places(tmp_path: Path) -> None:
    """Three places, seven jobs: three at once, each end brings the next, all end."""
    hold = asyncio.Event()
    upstream = ScriptedUpstream(*[paints(hold=hold)] * 7)
    async with open_studio(tmp_path, upstream, concurrency=3, serving=True) as studio:
        jobs = [await studio.submit(f"ref-{at}") for at in range(7)]
        await until(lambda: len(upstream.orders) == 3)
        await asyncio.sleep(5)  # virtual: several polls
        assert (len(upstream.orders), studio.dispatch.working) == (3, 3)
        assert (await studio.ledger.jobs.counts())["script", "queued"] == 4
        hold.set()
        assert {type(end) for end in await studio.ended(*jobs)} == {Completed}
        await soon()
        assert (studio.dispatch.working, len(studio.feeds)) == (0, 0)


@patiently
async def test_one_tenants_flood_does_not_delay_another(tmp_path: Path) -> None:
    """The second tenant came last and is served next."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream, concurrency=1) as studio:
        flood = [await studio.submit(f"ref-{at}", tenant="flood", prompt="flood") for at in range(6)]
        other = [await studio.submit(f"ref-{at}", tenant="other", prompt="other") for at in range(2)]
        studio.dispatch.start()
        await studio.ended(*flood, *other)
        order = [order.request.prompt for order in upstream.orders]
        assert order.index("other") <= 1
        assert sorted(order[:4]) == ["flood", "flood", "other", "other"]


@patiently
async def test_bell_makes_a_job_begin_at_once_and_a_poll_finds_what_was_not_rung(tmp_path: Path) -> None:
    """A lost ring costs a poll interval, never a job."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream, poll_seconds=20.0, serving=True) as studio:
        await asyncio.sleep(1)  # virtual
        rung = await studio.submit("ref-1")
        await studio.ended(rung)
        assert upstream.called_at[0] < 1.5
        studio.node.admission._ring = lambda _: None
        lost = await studio.submit("ref-2")
        began = studio.clock.now()
        await studio.ended(lost)
        assert 10 < upstream.called_at[1] - began <= 20


@patiently
async def test_ring_for_an_upstream_that_is_not_here_is_ignored(tmp_path: Path) -> None:
    """A wish may concern a job of an upstream that the settings no longer have."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        studio.dispatch.ring("gone")
        studio.dispatch.stop_work("01JD9Z6Q8M4T7V2XK3B5N0RCEW", "client")


@patiently
async def test_lease_of_a_long_job_is_renewed(tmp_path: Path) -> None:
    """Work that tells nothing for ten leases is still ours, and nobody else can claim it."""
    upstream = ScriptedUpstream(paints(seconds=10 * LEASE_MS / 1000), steps=1)
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        job = await studio.submit()
        for _ in range(10):
            await asyncio.sleep(0.99 * LEASE_MS / 1000)  # virtual
            now = studio.clock.time_ms()
            assert await studio.ledger.work.claim(["script"], "elsewhere", now, now + LEASE_MS, 1) == []
        [end] = await studio.ended(job)
        assert isinstance(end, Completed)
        assert (await studio.record(job)).claim == 1


@patiently
async def test_worker_that_lost_its_lease_is_stopped(tmp_path: Path) -> None:
    """Another node took the job: the call here is cut at the next renewal, and the log is the other's."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=1) as studio:
        job = await studio.submit()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.ledger.work.forget_claims()
        await studio.claim()
        await until(lambda: studio.dispatch.working == 0)
        assert upstream.cut == 1
        assert studio.meter.counted["stale_claims", "script"] == 1
        assert kinds(await studio.log(job)) == "accepted started"


@patiently
async def test_own_job_claimed_again_is_worked_by_the_new_claim_alone(tmp_path: Path) -> None:
    """The machine slept through the lease: the old worker is stopped, and its end does not take the new one's place."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()), paints(seconds=40.0))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=2) as studio:
        job = await studio.submit()
        watcher = Spectator(feeds=studio.feeds)
        studio.feeds.follow(await studio.feeds.open(job), watcher)
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.ledger.work.forget_claims()
        studio.dispatch.ring("script")
        await until(lambda: upstream.cut == 1)
        await asyncio.sleep(3)  # virtual
        feed = studio.feeds.get(job)
        assert feed is not None
        assert (studio.dispatch.working, feed.working) == (1, True)
        [end] = await studio.ended(job)
        assert isinstance(end, Completed)
        log = await studio.log(job)
        assert [event.attempt for event in log if isinstance(event, Started)] == [1, 2]
        await soon()
        assert (studio.dispatch.working, studio.dispatch.lines["script"].busy) == (0, 0)


@patiently
async def test_wish_noted_by_another_node_reaches_the_worker(tmp_path: Path) -> None:
    """The answer to a renewal tells it, a third of a lease later at most."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        job = await studio.submit()
        await until(lambda: len(upstream.orders) == 1)
        await studio.ledger.jobs.cancel(job, "deadline", studio.clock.time_ms())
        began = studio.clock.now()
        [end] = await studio.ended(job)
        assert isinstance(end, Canceled)
        assert end.by == "deadline"
        assert studio.clock.now() - began <= LEASE_MS / 3000 + 0.5


@patiently
async def test_wish_of_this_node_stops_the_work_at_once(tmp_path: Path) -> None:
    """The first wish counts, a repeated one changes nothing, and a queued job ends before `cancel` returns."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=1) as studio:
        running = await studio.submit("ref-1")
        await until(lambda: len(upstream.orders) == 1)
        queued = await studio.submit("ref-2")
        await studio.node.admission.cancel(await studio.record(queued), "client")
        assert kinds(await studio.log(queued)) == "accepted canceled"
        for by in ("operator", "client"):
            await studio.node.admission.cancel(await studio.record(running), by)
        began = studio.clock.now()
        [end] = await studio.ended(running)
        assert isinstance(end, Canceled)
        assert (end.by, studio.clock.now() - began < 0.5) == ("operator", True)


@patiently
async def test_wish_in_the_very_step_of_the_claim_is_not_lost(tmp_path: Path) -> None:
    """The claim and the wish are committed together: the worker has not begun when it is stopped."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        await asyncio.sleep(0.5)  # virtual
        job = await studio.submit()  # its ring wakes the dispatch, whose claim is written first
        record = await studio.record(job)
        for _ in range(50):
            if studio.dispatch.working:
                break
            await asyncio.sleep(0)
        studio.dispatch.stop_work(job, "client")
        await studio.node.admission.cancel(record, "client")
        began = studio.clock.now()
        await studio.ended(job)
        assert studio.clock.now() - began < LEASE_MS / 1000


@patiently
async def test_drain_lets_work_end_for_its_grace_and_gives_the_rest_back(tmp_path: Path) -> None:
    """What ends in time ends; what does not is queued again, unpaid; nothing new is claimed."""
    upstream = ScriptedUpstream(paints(seconds=2.0), paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=2) as studio:
        jobs = [await studio.submit(f"ref-{at}") for at in range(3)]
        await until(lambda: len(upstream.orders) == 2)
        await studio.dispatch.drain(10.0)
        states = sorted([(await studio.record(job)).state for job in jobs])
        assert states == ["completed", "queued", "queued"]
        assert (studio.dispatch.working, upstream.cut, len(upstream.orders)) == (0, 1, 2)
        await asyncio.sleep(5)  # virtual: polls that may not claim
        assert len(upstream.orders) == 2
    async with open_studio(tmp_path, upstream, serving=True) as studio:  # the restart
        assert {type(end) for end in await studio.ended(*jobs)} == {Completed}


@patiently
async def test_drain_with_nothing_to_wait_for_returns_at_once(tmp_path: Path) -> None:
    """Its grace is a bound, not a wait."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        await asyncio.sleep(1)  # virtual
        began = studio.clock.now()
        await studio.dispatch.drain(10.0)
        assert studio.clock.now() == began


@patiently
async def test_job_claimed_while_the_drain_begins_goes_back(tmp_path: Path) -> None:
    """A claim that was under way brings a job that nobody will work here."""
    upstream = ScriptedUpstream()
    async with open_studio(tmp_path, upstream, serving=True, poll_seconds=300.0) as studio:
        await asyncio.sleep(1)  # virtual
        studio.node.admission._ring = lambda _: None
        job = await studio.submit()
        studio.dispatch.ring("script")
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the claim is on its way to the ledger
        await studio.dispatch.drain(10.0)
        await asyncio.sleep(1)  # virtual
        assert ((await studio.record(job)).state, upstream.orders) == ("queued", [])
        assert studio.dispatch.working == 0


@patiently
async def test_drained_billed_call_is_given_up_by_the_next_start(tmp_path: Path) -> None:
    """It went out and was cut: the next gateway ends the job with `outcome_unknown` and calls nobody."""
    upstream = ScriptedUpstream(paints(hold=asyncio.Event()), billed=True)
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        job = await studio.submit()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.dispatch.drain(1.0)
    async with open_studio(tmp_path, upstream, serving=True) as studio:
        [end] = await studio.ended(job)
        assert isinstance(end, Failed)
        assert (end.error.code, await studio.hold(job), len(upstream.orders)) == (
            "outcome_unknown",
            "spent_unknown",
            1,
        )


@patiently
async def test_watched_jobs_are_told_their_places_in_the_queue(tmp_path: Path) -> None:
    """Each change once; nothing once the job has begun."""
    hold = asyncio.Event()
    upstream = ScriptedUpstream(*[paints(hold=hold)] * 2)
    async with open_studio(tmp_path, upstream, serving=True, concurrency=1) as studio:
        first = await studio.submit("ref-1")
        await until(lambda: len(upstream.orders) == 1)
        second = await studio.submit("ref-2")
        feed = await studio.feeds.open(second)
        watcher = Spectator(Rung(64, "jpeg", 70), studio.feeds)
        studio.feeds.follow(feed, watcher)
        await asyncio.sleep(3)  # virtual
        assert feed.tail.queue is not None
        assert b'"position":1' in feed.tail.queue[1]
        assert len(watcher.changes) == 1
        hold.set()
        await studio.ended(first, second)
        assert feed.tail.queue is None


@pytest.mark.parametrize("concurrency", [1, 4])
@patiently
async def test_locked_out_jobs_wait_at_the_gate_and_all_end(tmp_path: Path, concurrency: int) -> None:
    """A 429 for one holds everybody back for its time, and nobody is lost."""
    refusal = fails(fault(Outcome.REFUSED, "model_unavailable", retry_after_seconds=60.0, locked_out=True))
    upstream = ScriptedUpstream(refusal)
    gates = {"script": lambda clock: Gate(clock=clock, limit=4, period_seconds=10.0)}
    async with open_studio(tmp_path, upstream, serving=True, concurrency=concurrency, gates=gates) as studio:
        jobs = [await studio.submit(f"ref-{at}") for at in range(4)]
        assert {type(end) for end in await studio.ended(*jobs)} == {Completed}
        assert all(at >= 60.0 for at in upstream.called_at[concurrency:])
