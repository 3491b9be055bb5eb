"""Several accounts of an upstream, several upstreams of a model: who works what, and who stands in."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.core.reports import Outcome
from gateway.core.routing import Health
from gateway.flow.catalog import Way
from gateway.flow.gate import Gate
from gateway.flow.lines import OUT_SECONDS
from protocol.errors import ClientFault
from protocol.messages import Completed, Failed, Notice
from tests.gateway.flow.studio import PRICE, ScriptedUpstream, fails, fault, kinds, open_studio, patiently
from tests.virtual_time import LoopClock

UNAUTHORISED = fault(Outcome.FAILED, "upstream_error", credential=True, details={"status": 401})
LIMITED = fault(Outcome.REFUSED, "model_unavailable", locked_out=True, retry_after_seconds=5.0)
DOWN = fault(Outcome.NOT_SENT, "model_unavailable")
BOTH = {"fox": [Way("first", "first"), Way("second", "second", group=2)]}


# --- accounts ---


@patiently
async def test_refused_credential_gives_way_to_the_next(tmp_path: Path) -> None:
    """At once, and for everybody; the refused one is tried again when its time out is over."""
    first, second = ScriptedUpstream(fails(UNAUTHORISED), billed=True), ScriptedUpstream(billed=True)
    async with open_studio(tmp_path, first, second) as studio:
        began = studio.clock.now()
        log = await studio.run()
        assert isinstance(log[-1], Completed)
        assert (len(first.orders), len(second.orders), log[-1].cost_micros) == (1, 1, PRICE)
        assert studio.clock.now() - began < 5
        await studio.run(ref="ref-2")
        assert (len(first.orders), len(second.orders)) == (1, 2)
        assert [call.state for call in await studio.calls(log[0].job)] == ["refused", "done"]
        lines = studio.dispatch.lines["script"]
        assert [health for _, health in lines.facts().values()] == [Health.DOWN, Health.OK]


@patiently
async def test_last_credential_that_is_refused_fails_the_job(tmp_path: Path) -> None:
    """Each was asked once: nobody is hammered with keys that do not work."""
    accounts = [ScriptedUpstream(fails(UNAUTHORISED)) for _ in range(3)]
    async with open_studio(tmp_path, *accounts) as studio:
        log = await studio.run()
        assert isinstance(log[-1], Failed)
        assert (log[-1].error.code, log[-1].error.retryable) == ("upstream_error", False)
        assert [len(one.orders) for one in accounts] == [1, 1, 1]
        assert studio.dispatch.lines["script"].health() is Health.DOWN


@patiently
async def test_rate_limit_makes_nobody_spin_through_the_keys(tmp_path: Path) -> None:
    """A locked out account waits for its time; the next call goes to one that is open."""
    first, second = ScriptedUpstream(fails(LIMITED)), ScriptedUpstream()
    async with open_studio(tmp_path, first, second) as studio:
        log = await studio.run()
        assert isinstance(log[-1], Completed)
        assert (len(first.orders), len(second.orders)) == (1, 1)
        assert [health for _, health in studio.dispatch.lines["script"].facts().values()] == [
            Health.LOCKED_OUT,
            Health.OK,
        ]


@patiently
async def test_jobs_are_shared_out_over_the_accounts(tmp_path: Path) -> None:
    """To the one with least to do."""
    accounts = [ScriptedUpstream() for _ in range(2)]
    async with open_studio(tmp_path, *accounts, serving=True, concurrency=2) as studio:
        jobs = [await studio.submit(f"ref-{number}") for number in range(4)]
        await studio.ended(*jobs)
        assert [len(one.orders) for one in accounts] == [2, 2]


@patiently
async def test_credential_is_tried_again_after_a_while(tmp_path: Path) -> None:
    """The operator may have mended it."""
    first, second = ScriptedUpstream(fails(UNAUTHORISED)), ScriptedUpstream()
    async with open_studio(tmp_path, first, second) as studio:
        lines = studio.dispatch.lines["script"]
        lines.put_out(lines.pick())
        assert lines.health() is Health.OK
        assert lines.places == 4
        await asyncio.sleep(OUT_SECONDS + 1)  # virtual
        assert lines.places == 8


# --- upstreams ---


@patiently
async def test_upstream_that_is_down_gives_its_jobs_to_the_next_group(tmp_path: Path) -> None:
    """After the refusal, and before any work: the log shows one beginning, the price is of who did it."""
    first = ScriptedUpstream(fails(DOWN), name="first", price=500, billed=True)
    second = ScriptedUpstream(name="second", price=700, billed=True)
    async with open_studio(tmp_path, first, second, ways=BOTH, serving=True) as studio:
        job = await studio.submit(model="fox")
        record = await studio.record(job)
        assert (record.upstream, record.price_micros) == ("first", 700)
        await studio.ended(job)
        log = await studio.log(job)
        assert kinds(log) == "accepted started image completed"
        assert isinstance(log[-1], Completed)
        assert ((await studio.record(job)).upstream, log[-1].cost_micros) == ("second", 700)
        assert (len(first.orders), len(second.orders)) == (1, 1)


@patiently
async def test_upstream_that_is_known_to_be_down_is_not_asked_first(tmp_path: Path) -> None:
    """Its breaker is open: new jobs go to what stands in for it."""

    def fragile(clock: LoopClock) -> Gate:
        return Gate(clock=clock, failure_threshold=1, cooldown_seconds=1000.0)

    first, second = ScriptedUpstream(fails(DOWN), name="first"), ScriptedUpstream(name="second")
    gates = {"first": fragile}
    async with open_studio(tmp_path, first, second, ways=BOTH, serving=True, gates=gates) as studio:
        await studio.ended(await studio.submit(model="fox"))
        other = await studio.submit("ref-2", model="fox")
        assert (await studio.record(other)).upstream == "second"
        await studio.ended(other)
        assert (len(first.orders), len(second.orders)) == (1, 2)


@patiently
async def test_billed_call_of_unknown_outcome_goes_nowhere_else(tmp_path: Path) -> None:
    """Failover is for what was never begun."""
    lost = fault(Outcome.UNKNOWN, "outcome_unknown")
    first, second = ScriptedUpstream(fails(lost), name="first", billed=True), ScriptedUpstream(name="second")
    async with open_studio(tmp_path, first, second, ways=BOTH, serving=True) as studio:
        [end] = await studio.ended(await studio.submit(model="fox"))
        assert isinstance(end, Failed)
        assert (end.error.code, len(second.orders)) == ("outcome_unknown", 0)


@patiently
async def test_nobody_stands_in_where_nobody_is_well(tmp_path: Path) -> None:
    """Two that are down do not throw a job back and forth: it is tried as often as on one, and fails."""
    first = ScriptedUpstream(*[fails(DOWN)] * 9, name="first")
    second = ScriptedUpstream(*[fails(DOWN)] * 9, name="second")
    async with open_studio(tmp_path, first, second, ways=BOTH, serving=True) as studio:
        [end] = await studio.ended(await studio.submit(model="fox"))
        assert isinstance(end, Failed)
        assert (end.error.code, len(first.orders) + len(second.orders)) == ("model_unavailable", 4)


@patiently
async def test_one_name_at_two_upstreams_has_two_routes(tmp_path: Path) -> None:
    """Without any configuration; the load is shared."""
    first, second = ScriptedUpstream(name="first", model="fox"), ScriptedUpstream(name="second", model="fox")
    async with open_studio(tmp_path, first, second, serving=True, concurrency=4) as studio:
        jobs = [await studio.submit(f"ref-{number}", model="fox") for number in range(40)]
        await studio.ended(*jobs)
        assert min(len(first.orders), len(second.orders)) >= 8


@patiently
async def test_cheaper_route_comes_first(tmp_path: Path) -> None:
    """Health before price, price before load."""
    dear = ScriptedUpstream(name="dear", model="fox", price=900)
    cheap = ScriptedUpstream(name="cheap", model="fox", price=100)
    async with open_studio(tmp_path, dear, cheap, serving=True) as studio:
        jobs = [await studio.submit(f"ref-{number}", model="fox") for number in range(6)]
        await studio.ended(*jobs)
        assert (len(dear.orders), len(cheap.orders)) == (0, 6)


@patiently
async def test_route_that_cannot_do_what_is_asked_is_passed_over(tmp_path: Path) -> None:
    """And if none can, the first one's refusal is told."""
    small = ScriptedUpstream(name="small", model="fox", price=1)
    small.models = (replace(small.models[0], max_n=1),)
    large = ScriptedUpstream(name="large", model="fox")
    async with open_studio(tmp_path, small, large) as studio:
        assert (await studio.record(await studio.submit(n=2, model="fox"))).upstream == "large"
        with pytest.raises(ClientFault) as caught:
            await studio.submit("ref-2", n=20, model="fox")
        assert caught.value.details["path"] == "params.n"


@patiently
async def test_what_was_adjusted_is_told_after_the_start(tmp_path: Path) -> None:
    """Once, also if the work is begun twice."""
    lost = fault(Outcome.UNKNOWN, "worker_lost")
    async with open_studio(tmp_path, ScriptedUpstream(fails(lost))) as studio:
        log = await studio.run(n=20, adjust=True)
        assert isinstance(log[-1], Completed)
        notices = [event for event in log if isinstance(event, Notice)]
        assert [(notice.code, notice.message) for notice in notices] == [("param_clamped", "n 20 became 8")]
        assert len(log[-1].images) == 8
