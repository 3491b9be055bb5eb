"""Work called off, in each state a job can be in, and calls whose outcome is unknown taken up again."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.records import StaleClaim
from gateway.core.reports import ImageMade, Outcome, UpstreamFault, WorkBegun
from gateway.upstreams.sdcpp import SdCpp
from load.upstreams.faults import Refuse, Rule, Stall
from load.upstreams.pictures import colour_of
from load.upstreams.sdcpp import SdCpp as StandIn
from load.upstreams.sdcpp import Shop
from load.upstreams.sdcpp.catalogue import capabilities
from load.upstreams.sdcpp.special import Special
from tests.gateway.upstreams.sdcpp.vendor import (
    adapter,
    all_of,
    answering,
    count,
    fault,
    noting,
    order,
    pixel,
    raw_server,
    reports,
    until,
)

FIRST = frozenset({1})
UNHEARD = Rule(do=Refuse(500), operation="cancel")
"""A cancel that does not get through."""


async def cut_short(upstream: SdCpp, when: Callable[[], object], **options: Any) -> float:
    """Run an order in a task that is cancelled when something is so; returns how many seconds its end took."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reports(upstream, order(upstream, **options)))
        await until(when)
        began = loop.time()
        task.cancel()
    assert task.cancelled()
    return loop.time() - began


async def occupied(
    standin: StandIn, upstream: SdCpp, group: asyncio.TaskGroup, seconds: float = 30
) -> asyncio.Task[object]:
    """The server with a job at work, before which all others wait."""
    standin.script(Rule(service_seconds=seconds, requests=FIRST))
    task: asyncio.Task[object] = group.create_task(reports(upstream, order(upstream)))
    await until(lambda: standin.tally.accepted == 1)
    return task


async def test_point_2_queued_job_is_taken_out(standin: StandIn) -> None:
    """A cancelled call leaves the queue within a second, and is never begun."""
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        first = await occupied(standin, upstream, group)
        noted: list[str] = []
        took = await cut_short(upstream, lambda: noted, noted=noting(noted))
        assert (standin.tally.cancelled, standin.tally.accepted, standin.tally.billed) == (1, 2, 1)
        first.cancel()
    assert took < 1


@pytest.mark.parametrize("how", ["task", "generator"])
async def test_point_2_running_job_goes_on_without_us(standin: StandIn, how: str) -> None:
    """It answers 409; we stop waiting, and it comes to its end there."""
    standin.script(Rule(service_seconds=0.3))
    async with adapter(standin.url) as upstream:
        if how == "task":
            assert await cut_short(upstream, lambda: count(standin, "job") > 2) < 1
        else:
            run = upstream.run(order(upstream))
            assert await anext(run) == WorkBegun(2)
            await run.aclose()
        assert [call.status for call in standin.log if call.operation == "cancel"] == [409]
        assert standin.tally.completed == 0
        await until(lambda: standin.tally.completed == 1)
        polls = count(standin, "job")
        await asyncio.sleep(0.03)  # time for what must not happen
        assert count(standin, "job") == polls


async def test_point_2_job_that_was_faster_is_not_read(standin: StandIn) -> None:
    """Cancelling an ended job is 200 with its whole result: it is not taken for cancelled, nor the rest read."""
    async with adapter(standin.url) as upstream:
        run = upstream.run(order(upstream))
        assert await anext(run) == WorkBegun(2)
        await until(lambda: standin.tally.completed == 1)
        await run.aclose()
    assert [call.status for call in standin.log if call.operation == "cancel"] == [200]
    assert (standin.tally.cancelled, standin.tally.completed) == (0, 1)


async def test_call_is_cancelled_before_its_id_came(standin: StandIn) -> None:
    """The order is out and its answer under way: that is waited for, or nobody could take the job out of the queue."""
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        first = await occupied(standin, upstream, group)
        standin.script(Rule(do=Stall(0, seconds=0.1)))
        sent: list[None] = []
        took = await cut_short(upstream, lambda: sent, sent=lambda: sent.append(None))
        assert (standin.tally.cancelled, standin.calls) == (1, 2)
        first.cancel()
    assert 0.05 < took < 1


async def test_server_that_does_not_answer_a_cancel_holds_nobody(standin: StandIn) -> None:
    """A second at most, however the server stalls."""
    standin.script(Rule(service_seconds=30), Rule(do=Stall(0), operation="cancel"))
    async with adapter(standin.url) as upstream:
        took = await cut_short(upstream, lambda: count(standin, "job") > 2)
    assert 0.5 < took < 1.2


async def test_order_that_never_began_is_none(standin: StandIn) -> None:
    """A generator closed before its first step asks for nothing."""
    async with adapter(standin.url) as upstream:
        run = upstream.run(order(upstream))
        await run.aclose()
    assert standin.calls == 0


async def test_claim_that_went_stale_takes_the_job_along(standin: StandIn) -> None:
    """If its id cannot be noted nobody will ask for it again: it is called off."""

    async def refuse(_: str) -> None:
        raise StaleClaim("another has it")

    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        first = await occupied(standin, upstream, group)
        with pytest.raises(StaleClaim):
            await reports(upstream, order(upstream, noted=refuse))
        assert standin.tally.cancelled == 1
        first.cancel()


async def test_job_that_takes_too_long_is_left(standin: StandIn) -> None:
    """A worker that hangs does not hold a call for good: the queue is left, the failure told."""
    standin.script(Rule(do=Special("stick")))
    async with adapter(standin.url, timeout_seconds=0.1) as upstream:
        found = await fault(upstream.run(order(upstream)))
        assert count(standin, "cancel") == 1
    assert (found.outcome, found.code) == (Outcome.FAILED, "upstream_error")
    assert found.message == "the server did not make the picture within 0.1 seconds"


async def test_closing_the_adapter_leaves_a_call_unknown(standin: StandIn) -> None:
    """A drain that closes under a call leaves it with an outcome that can be looked up."""
    standin.script(Rule(service_seconds=30))
    async with adapter(standin.url, patience_seconds=0.0) as upstream:
        run = upstream.run(order(upstream))
        await anext(run)
        await upstream.close()
        with pytest.raises((UpstreamFault, AssertionError)):
            await anext(run)


# --------------------------------------------------------------------------------------------------------------- resume


async def begun(upstream: SdCpp, standin: StandIn, rule: Rule) -> str:
    """The id of a job that meets the rule and whose caller died: nothing called it off."""
    noted: list[str] = []
    standin.script(rule, UNHEARD)
    run = upstream.run(order(upstream, noted=noting(noted)))
    assert await anext(run) == WorkBegun(2)
    await run.aclose()
    (job,) = noted
    return job


async def test_running_job_is_found_and_waited_for(standin: StandIn) -> None:
    """Resume begins nothing anew: it goes on asking for the job."""
    async with adapter(standin.url) as upstream:
        job = await begun(upstream, standin, Rule(service_seconds=0.15))
        first, second = await all_of(upstream.resume(order(upstream), job))
    assert (first, standin.calls) == (WorkBegun(2), 1)
    assert isinstance(second, ImageMade)
    assert pixel(second) == colour_of(7, "a lamp")


async def test_ended_job_is_found_with_its_pictures(standin: StandIn) -> None:
    """Within ten minutes the result is still there, for another adapter too, and as often as it is asked for."""
    async with adapter(standin.url) as upstream:
        job = await begun(upstream, standin, Rule())
        await until(lambda: standin.tally.completed == 1)
    async with adapter(standin.url, asked=False) as other, adapter(standin.url) as upstream:
        for _ in range(2):
            told = await all_of(other.resume(order(upstream), job))
            assert [type(report) for report in told] == [WorkBegun, ImageMade]
    assert standin.calls == 1


async def test_failed_job_is_found_failed(standin: StandIn) -> None:
    """The end is the end, whoever asks for it."""
    async with adapter(standin.url) as upstream:
        job = await begun(upstream, standin, Rule(do=Special("fail"), service_seconds=0.1))
        found = await fault(upstream.resume(order(upstream), job))
    assert (found.outcome, found.code, found.details["vendor_code"]) == (
        Outcome.FAILED,
        "upstream_error",
        "generation_failed",
    )


@pytest.mark.parametrize("handle", [None, "job_0_0", "../../v1/models", "", "job_1?x", "x" * 200])
async def test_job_that_the_server_does_not_know_is_gone(standin: StandIn, handle: str | None) -> None:
    """Unbilled, so it may be begun again: without an id, with an unknown one, and with what is none."""
    async with adapter(standin.url) as upstream:
        found = await fault(upstream.resume(order(upstream), handle))
    assert (found.outcome, found.code, standin.calls) == (Outcome.GONE, "worker_lost", 0)
    assert count(standin, "models") == 0


async def test_job_of_a_server_that_was_restarted_is_gone(standin: StandIn) -> None:
    """Jobs live in its memory."""
    async with adapter(standin.url) as upstream:
        job = await begun(upstream, standin, Rule(service_seconds=30))
        await standin.kill()
        await standin.restart()
        found = await fault(upstream.resume(order(upstream), job))
    assert (found.outcome, found.code) == (Outcome.GONE, "worker_lost")


async def test_expired_job_is_gone() -> None:
    """410 is as good as 404: the result is lost and cost nothing."""
    noted: list[str] = []
    forgetful = StandIn(step_seconds=0, script=[Rule(do=Special("expire"))])
    async with forgetful as standin, adapter(standin.url) as upstream:
        await fault(upstream.run(order(upstream, noted=noting(noted))))
        found = await fault(upstream.resume(order(upstream), noted[0]))
    assert (found.outcome, found.code) == (Outcome.GONE, "worker_lost")
    assert [call.status for call in standin.log if call.operation == "job"][-1] == 410


async def test_server_out_of_reach_leaves_it_unknown(standin: StandIn) -> None:
    """Nothing was learnt: the call may be looked up again."""
    async with adapter(standin.url, patience_seconds=0.05) as upstream:
        job = await begun(upstream, standin, Rule(service_seconds=30))
        await standin.kill()
        found = await fault(upstream.resume(order(upstream), job))
    assert (found.outcome, found.code) == (Outcome.UNKNOWN, "outcome_unknown")
    assert found.details == {"upstream": "home", "cause": "ClientConnectorError"}


async def test_our_own_cancel_is_begun_again_and_a_stranger_s_is_not(standin: StandIn) -> None:
    """Found cancelled after a restart of ours it was our own doing; while we wait for it, somebody wants it gone."""
    error = {"code": "cancelled", "message": "job cancelled by client"}
    answers = [
        ("200 OK", capabilities(Shop())),
        ("202 Accepted", {"id": "job_1", "status": "queued"}),
        ("200 OK", {"id": "job_1", "status": "queued", "error": None, "result": None}),
        ("200 OK", {"id": "job_1", "status": "cancelled", "error": error, "result": None}),
    ]
    served = answering(*((status, json.dumps(body).encode()) for status, body in answers))
    async with raw_server(served) as url, adapter(url) as upstream:
        ran = await fault(upstream.run(order(upstream)))
        resumed = await fault(upstream.resume(order(upstream), "job_1"))
    assert (ran.outcome, ran.message) == (Outcome.FAILED, "somebody took the job out of the server's queue")
    assert (resumed.outcome, resumed.code) == (Outcome.GONE, "worker_lost")


async def test_cancelling_a_resumed_call_calls_the_job_off(standin: StandIn) -> None:
    """It is the same work; the first cancel did not get through."""
    async with adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        first = await occupied(standin, upstream, group)
        standin.script(replace(UNHEARD, times=1))
        noted: list[str] = []
        await cut_short(upstream, lambda: noted, noted=noting(noted))
        assert (count(standin, "cancel"), standin.tally.cancelled) == (1, 0)
        polls = count(standin, "job")
        again = group.create_task(all_of(upstream.resume(order(upstream), noted[0])))
        await until(lambda: count(standin, "job") > polls + 4)
        again.cancel()
        await asyncio.wait([again])
        assert (count(standin, "cancel"), standin.tally.cancelled) == (2, 1)
        first.cancel()
