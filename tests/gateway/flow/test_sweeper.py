"""What time alone brings about, in virtual time."""

import asyncio
from pathlib import Path

from gateway.core.records import JobRecord
from gateway.flow.sweeper import Sweeper
from protocol.messages import Canceled, Canceler, Completed
from tests.gateway.flow.studio import (
    ScriptedUpstream,
    Spectator,
    Studio,
    kinds,
    leap,
    open_studio,
    paints,
    patiently,
    until,
)
from tests.gateway.parts import SESSION_TTL_MS

DAY_MS = 86_400_000


def sweeping(studio: Studio) -> Sweeper:
    """Start a sweeper and return it."""
    sweeper = Sweeper(studio.node, session_ttl_ms=SESSION_TTL_MS, ref_retention_ms=DAY_MS)
    sweeper.start(studio.node.supervisor)
    return sweeper


@patiently
async def test_deadline_ends_queued_and_running_jobs_by_its_name(tmp_path: Path) -> None:
    """Within a second; a job that ends in time is left alone."""
    upstream = ScriptedUpstream(paints(), paints(hold=asyncio.Event()))
    async with open_studio(tmp_path, upstream, serving=True, concurrency=1) as studio:
        sweeping(studio)
        fast = await studio.submit("ref-1", deadline_ms=5000)
        await studio.ended(fast)
        running = await studio.submit("ref-2", deadline_ms=5000)
        await until(lambda: len(upstream.orders) == 2)
        queued = await studio.submit("ref-3", deadline_ms=5000)
        began = studio.clock.now()
        ends = await studio.ended(running, queued)
        assert [end.by for end in ends if isinstance(end, Canceled)] == ["deadline", "deadline"]
        assert 4.9 <= studio.clock.now() - began <= 6.5
        assert isinstance((await studio.log(fast))[-1], Completed)


@patiently
async def test_events_of_another_node_are_told_within_the_poll(tmp_path: Path) -> None:
    """A watcher of a job that is worked elsewhere waits 5 s at most."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        sweeping(studio)
        job = await studio.submit()
        watcher = Spectator(feeds=studio.feeds)
        feed = await studio.feeds.open(job)
        studio.feeds.follow(feed, watcher)
        await studio.ledger.jobs.cancel(job, "client", studio.clock.time_ms())
        await until(lambda: feed.has_ended, within_seconds=5.5)
        assert watcher.changes == [job]


@patiently
async def test_logs_are_cut_and_jobs_forgotten_after_their_retention(tmp_path: Path) -> None:
    """An hour after the end only the end is left; when the ref has run out nothing is."""
    async with open_studio(tmp_path, ScriptedUpstream(), serving=True) as studio:
        sweeping(studio)
        job = await studio.submit()
        [end] = await studio.ended(job)
        assert isinstance(end, Completed)
        await leap(3590)
        assert kinds(await studio.log(job)) == "accepted started image completed"
        await leap(60)
        await asyncio.sleep(30)  # virtual
        assert kinds(await studio.log(job)) == "completed"
        await leap(DAY_MS / 1000)
        await asyncio.sleep(30)  # virtual
        assert await studio.ledger.jobs.find(job) is None
        assert await studio.store.get("acme", end.images[0].asset) is None


@patiently
async def test_loop_that_failed_goes_on(tmp_path: Path) -> None:
    """A mistake in one look is told, and the next look comes."""
    async with open_studio(tmp_path, ScriptedUpstream()) as studio:
        sweeper = sweeping(studio)
        job = await studio.submit(deadline_ms=1000)
        looks, cancel = 0, studio.node.admission.cancel

        async def fail_once(job: JobRecord, by: Canceler) -> None:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise ZeroDivisionError
            await cancel(job, by)

        studio.node.admission.cancel = fail_once  # type: ignore[method-assign]
        await studio.ended(job)
        assert [name for name, _ in studio.failures] == ["deadlines"]
        studio.expected_failures = 1
        await sweeper.end_overdue()
        assert looks == 2
