"""Cancelling and asking afterwards; point 6 of what the real servers do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.core.reports import Outcome, Report, StepDone, UpstreamFault, WorkBegun
from gateway.ports import CallOrder
from gateway.upstreams.a1111 import A1111
from gateway.upstreams.a1111 import polls as a1111_polls
from load.upstreams.a1111 import Stuck
from load.upstreams.faults import Cut, Rule, Stall
from tests.gateway.upstreams.a1111.server import (
    CAT,
    StandIn,
    adapter,
    asked_for,
    fault,
    flat,
    images,
    order,
    pixel,
    until,
)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for what cannot be stopped."""
    monkeypatch.setattr(a1111_polls, "_STOP_SECONDS", 0.25)


BOTH = pytest.mark.parametrize("web", [True, False], ids=["by task", "global"])


async def leave_at(upstream: A1111, asked: CallOrder, kind: type[object]) -> None:
    """Close a call's generator at its first report of a kind."""
    run: AsyncGenerator[Report, None] = upstream.run(asked)
    async with aclosing(run):
        async for report in run:
            if isinstance(report, kind):
                return


@BOTH
async def test_running_work_is_interrupted(web: bool) -> None:
    """Point 6: the interrupted request is answered 200 with the unfinished picture, which is dropped."""
    async with StandIn(web=web, service_time=0.005) as standin, adapter(standin.url) as upstream:
        async with asyncio.timeout(1):
            await leave_at(upstream, order(upstream, steps=150), StepDone)
        assert [job.ending for job in standin.jobs] == ["interrupted"]
        assert [call.status for call in standin.log if call.generation] == [200]
        # The flag is cleared at the start of each job.
        (made,) = await images(upstream, order(upstream, id="01KAN0NEXT"))
    assert (pixel(made), asked_for(standin, "interrupt")) == (CAT, 1)


@BOTH
async def test_cancelled_task_interrupts_its_work(web: bool) -> None:
    """Point 6: a cancelled task stops the work as a closed generator does."""
    async with StandIn(web=web, service_time=0.005) as standin, adapter(standin.url) as upstream:
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream, steps=150)))
        await until(lambda: bool(standin.jobs) and standin.jobs[0].steps_done > 1)
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert task.cancelled()
        assert [job.ending for job in standin.jobs] == ["interrupted"]


@BOTH
async def test_work_of_another_is_not_interrupted(web: bool) -> None:
    """Point 6: the interrupt stops whatever runs, so it is sent only if that is ours."""
    async with StandIn(web=web, service_time=0.002) as standin, adapter(standin.url) as upstream:
        standin.hold(job=1)
        job = standin.foreign_job(20)
        await standin.held()
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream)))
        await until(lambda: len(standin.jobs) == 2)
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert asked_for(standin, "interrupt") == 0
        standin.release()
        await until(lambda: job.ending == "done")


async def test_waiting_work_is_stopped_by_the_next_call(standin: StandIn) -> None:
    """Point 6: a waiting request cannot be removed; when its turn has come, the next call interrupts it."""
    async with adapter(standin.url) as upstream:
        standin.hold(job=1)
        foreign = standin.foreign_job(20)
        await standin.held()
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream, steps=150)))
        await until(lambda: len(standin.jobs) == 2)
        task.cancel()
        await asyncio.wait([task])
        following = asyncio.get_running_loop().create_task(images(upstream, order(upstream, id="01KAN0NEXT")))
        await until(lambda: len(standin.jobs) == 3)
        standin.release()
        (made,) = await following
    assert [job.ending for job in standin.jobs] == ["done", "interrupted", "done"]
    assert (foreign.ending, pixel(made)) == ("done", CAT)


async def test_stray_that_is_over_is_forgotten(standin: StandIn) -> None:
    """What nobody wants is asked for until it is over, and no longer."""
    async with adapter(standin.url) as upstream:
        upstream._lookout.remember("01kan0gone")
        await upstream._lookout.stop_strays()
        assert not upstream._lookout._strays
    assert asked_for(standin, "interrupt") == 0


@BOTH
async def test_work_that_was_faster_than_its_cancellation_is_let_be(web: bool) -> None:
    """Point 6: nothing is interrupted when the job is over and only its answer is on the way."""
    async with (
        StandIn(web=web, answer_delay=0.2, service_time=0.002) as standin,
        adapter(standin.url) as upstream,
    ):
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream)))
        await until(lambda: bool(standin.jobs) and standin.jobs[0].ending == "done")
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert (asked_for(standin, "interrupt"), len(upstream._lookout._strays)) == (0, 0)


@BOTH
async def test_cancellation_of_a_server_that_hangs_takes_less_than_a_second(web: bool) -> None:
    """Point 6: a hung job heeds no interrupt; nobody waits for it."""
    async with StandIn(web=web, service_time=0.002) as standin, adapter(standin.url) as upstream:
        standin.script(Rule(do=Stuck(at_step=3)))
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream)))
        await until(lambda: bool(standin.jobs) and standin.jobs[0].steps_done == 2)
        await asyncio.sleep(0.02)  # until a poll has shown that it runs
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert asked_for(standin, "interrupt") == 1


async def test_enlarging_is_left_without_harm(standin: StandIn) -> None:
    """An upscale has no task: it is interrupted only while the server says that it enlarges."""
    async with adapter(standin.url) as upstream:
        standin.hold(job=1)
        standin.foreign_job(5)
        await standin.held()
        await leave_at(upstream, order(upstream, "upscale", {"init": flat("red")}), WorkBegun)
        assert asked_for(standin, "interrupt") == 0
        standin.release()


@pytest.mark.parametrize("trouble", [Cut(0), Stall(0)])
@BOTH
async def test_work_whose_answer_is_lost_does_not_run_on_alone(web: bool, trouble: Any) -> None:
    """Closing the connection stops nothing there: what may still run is looked at once, and not interrupted if over."""
    async with StandIn(web=web, service_time=0.002) as standin:
        standin.script(Rule(do=trouble))
        async with adapter(standin.url, timeout_seconds=0.3) as upstream:
            found = await fault(upstream)
    assert (found.outcome, asked_for(standin, "interrupt")) == (Outcome.UNKNOWN, 0)


@BOTH
async def test_work_that_takes_too_long_is_interrupted(web: bool) -> None:
    """The outcome is unknown, and the work is not left in the way of its repetition."""
    async with (
        StandIn(web=web, service_time=0.01) as standin,
        adapter(standin.url, timeout_seconds=0.2) as upstream,
    ):
        found = await fault(upstream, order(upstream, steps=150))
        await until(lambda: standin.jobs[0].ending == "interrupted")
    assert (found.outcome, found.code) == (Outcome.UNKNOWN, "outcome_unknown")


async def test_two_calls_never_overlap(standin: StandIn) -> None:
    """Point 1: one request at a time, whatever the gate lets through."""
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(images(upstream, order(upstream, id=f"01KAN0CALL{number}")))
    assert (standin.calls, standin.tally.peak) == (3, 1)


async def test_nothing_can_be_asked_afterwards(standin: StandIn) -> None:
    """A finished picture is in the answer and nowhere else, so the outcome of a lost call stays unknown."""
    async with adapter(standin.url) as upstream:
        assert not upstream.can_find("job")
        with pytest.raises(UpstreamFault) as caught:
            await anext(upstream.resume(order(upstream), None))
    assert caught.value.outcome is Outcome.UNKNOWN
