"""Calls whose outcome is unknown, where the upstream can be asked: found, still at work, gone, or not to be reached."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.core.reports import ImageMade, Outcome, Report
from gateway.flow.worker import MAX_ATTEMPTS
from gateway.ports import CallOrder
from protocol.messages import Canceled, Completed, Failed, Started
from tests.gateway.flow.studio import (
    PRICE,
    Act,
    ScriptedUpstream,
    fails,
    fault,
    kinds,
    open_studio,
    paints,
    patiently,
    picture,
    soon,
    until,
)

LOST = fault(Outcome.UNKNOWN, "outcome_unknown")
GONE = fault(Outcome.GONE, "worker_lost")
UNREACHABLE = fault(Outcome.NOT_SENT, "model_unavailable")


def finds() -> Act:
    """An act that has everything at once."""

    async def act(order: CallOrder) -> AsyncGenerator[Report, None]:
        for index in range(order.count):
            yield ImageMade(picture(order.seed + index), index, order.seed + index)

    return act


def handled(handle: str, then: Act) -> Act:
    """An act of an upstream that tells its own id of the work first."""

    async def act(order: CallOrder) -> AsyncGenerator[Report, None]:
        await order.noted(handle)
        async for report in then(order):
            yield report

    return act


@pytest.mark.parametrize("billed", [False, True])
@patiently
async def test_lost_call_is_looked_up_and_not_repeated(tmp_path: Path, billed: bool) -> None:
    """The picture comes from the one call there was; the client sees no second beginning, and it costs once."""
    upstream = ScriptedUpstream(paints(last_words=LOST), resumes=[finds()], billed=billed)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        assert kinds(log) == "accepted started image completed"
        assert isinstance(log[-1], Completed)
        assert (len(upstream.orders), upstream.resumed) == (1, [(upstream.orders[0].id, None)])
        [call] = await studio.calls(log[0].job)
        assert (call.state, call.cost_micros, log[-1].cost_micros) == ("done", PRICE, PRICE)
        assert (await studio.record(log[0].job)).cost_micros == PRICE
        assert await studio.hold(log[0].job) == "settled"


@patiently
async def test_upstream_is_asked_by_its_own_id_of_the_work(tmp_path: Path) -> None:
    """It was in the ledger before anything came of it, so that another worker has it too."""
    upstream = ScriptedUpstream(handled("vendor-7", paints(hold=asyncio.Event())), resumes=[finds()])
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        _, lost = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.ledger.work.forget_claims()
        _, task = await studio.work_on()
        await task
        assert upstream.resumed == [(upstream.orders[0].id, "vendor-7")]
        log = await studio.log(job)
        assert kinds(log) == "accepted started started image completed"
        assert [event.attempt for event in log if isinstance(event, Started)] == [1, 2]
        lost.cancel()
        await asyncio.wait([lost])


@patiently
async def test_work_that_vanished_is_begun_again(tmp_path: Path) -> None:
    """A second attempt, and never two pictures for one index."""
    upstream = ScriptedUpstream(paints(last_words=LOST), resumes=[fails(GONE)])
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run(n=2)
        assert kinds(log) == "accepted started started image image completed"
        assert [call.state for call in await studio.calls(log[0].job)] == ["gone", "done"]


@patiently
async def test_work_that_vanishes_each_time_is_given_up(tmp_path: Path) -> None:
    """As often as any other that is lost."""
    acts = [paints(last_words=LOST) for _ in range(9)]
    upstream = ScriptedUpstream(*acts, resumes=[fails(GONE) for _ in acts])
    async with open_studio(tmp_path, upstream, max_tries=9) as studio:
        log = await studio.run()
        assert isinstance(log[-1], Failed)
        assert (log[-1].error.code, len(upstream.orders)) == ("worker_lost", MAX_ATTEMPTS)


@pytest.mark.parametrize(
    "billed,code,hold", [(True, "outcome_unknown", "spent_unknown"), (False, "model_unavailable", "settled")]
)
@patiently
async def test_upstream_that_cannot_be_reached_is_asked_for_a_while(
    tmp_path: Path, billed: bool, code: str, hold: str
) -> None:
    """Then the job ends; a billed call is named and its money kept as spent."""
    upstream = ScriptedUpstream(paints(last_words=LOST), resumes=[fails(UNREACHABLE) for _ in range(9)], billed=billed)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        end = log[-1]
        assert isinstance(end, Failed)
        assert (end.error.code, len(upstream.orders), len(upstream.resumed)) == (code, 1, 3)
        assert (end.cost_micros, await studio.hold(log[0].job)) == (PRICE if billed else 0, hold)


@patiently
async def test_upstream_that_says_it_failed_ends_the_job(tmp_path: Path) -> None:
    """What was found is a failure, and no money was spent after all."""
    upstream = ScriptedUpstream(paints(last_words=LOST), resumes=[fails(fault(Outcome.FAILED))], billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        log = await studio.run()
        assert isinstance(log[-1], Failed)
        assert (log[-1].error.code, log[-1].cost_micros) == ("upstream_error", 0)
        [call] = await studio.calls(log[0].job)
        assert (call.state, call.cost_micros) == ("done", 0)
        assert (await studio.record(log[0].job)).cost_micros == 0


@patiently
async def test_job_is_canceled_while_its_call_is_looked_up(tmp_path: Path) -> None:
    """What the call came to nobody knows, so its money is kept as spent."""
    upstream = ScriptedUpstream(paints(last_words=LOST), resumes=[paints(hold=asyncio.Event())], billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        worker, task = await studio.work_on()
        await until(lambda: len(upstream.resumed) == 1)
        await soon()
        worker.stop(task, "client")
        await asyncio.wait([task])
        [*_, end] = await studio.log(job)
        assert isinstance(end, Canceled)
        assert (end.cost_micros, await studio.hold(job)) == (PRICE, "spent_unknown")


@patiently
async def test_account_that_is_no_longer_configured_cannot_be_asked(tmp_path: Path) -> None:
    """Only the one that made a call can ask for it; a billed one is given up, by name."""
    upstream = ScriptedUpstream(handled("x", paints(hold=asyncio.Event())), resumes=[], billed=True)
    async with open_studio(tmp_path, upstream) as studio:
        job = await studio.submit()
        _, lost = await studio.work_on()
        await until(lambda: len(upstream.orders) == 1)
        await soon()
        await studio.ledger.work.forget_claims()
        studio.dispatch.lines["script"]._lines = {"other": studio.dispatch.lines["script"].pick()}
        studio.dispatch.lines["script"]._out_until = {"other": 0.0}
        _, task = await studio.work_on()
        await task
        [*_, end] = await studio.log(job)
        assert isinstance(end, Failed)
        assert (end.error.code, upstream.resumed) == ("outcome_unknown", [])
        lost.cancel()
        await asyncio.wait([lost])
