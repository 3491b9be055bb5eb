"""Cancelling a call, and going on with one whose outcome is unknown."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, StepDone, WorkBegun
from gateway.upstreams.comfyui.wire import prompt_id_of
from load.upstreams.comfyui import Fail, Pause, PromptRule, SocketRule, Vanish, colour
from load.upstreams.faults import Cut, Garbage, Refuse, Rule, Stall
from tests.gateway.upstreams.comfyui.vendor import (
    Held,
    StandIn,
    adapter,
    asked_for,
    fault,
    flat,
    opened,
    order,
    reports,
    resumed,
    steps,
    until,
)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("by", ["aclose", "cancel"])
async def test_running_prompt_is_interrupted_within_a_second(by: str, old: bool) -> None:
    """By closing the generator or cancelling the task; the next call works."""
    async with StandIn(step_time=0.01, old=old) as standin, adapter(standin.url) as upstream:
        if by == "aclose":
            run = upstream.run(order(upstream, steps=1000))
            async for report in run:
                if isinstance(report, StepDone):
                    break
            began = time.monotonic()
            await run.aclose()
        else:
            async with asyncio.TaskGroup() as group:
                call = group.create_task(reports(upstream, order(upstream, steps=1000)))
                await until(lambda: standin.jobs and standin.jobs[0].steps > 2)
                began = time.monotonic()
                call.cancel()
        assert time.monotonic() - began < 1
        await until(lambda: standin.jobs[0].state == "interrupted", 1)
        assert opened(await reports(upstream, order(upstream))).size == (64, 64)


async def test_prompt_on_its_way_is_stopped_too() -> None:
    """A cancel before the answer waits for it a little; what arrives after it would start."""
    rules = [Rule(service_seconds=0.2)]
    async with StandIn(step_time=0.01, script=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream, steps=1000)))
            await until(lambda: asked_for(standin, "/prompt", "POST"))
            call.cancel()
        await until(lambda: standin.jobs and standin.jobs[0].state in ("interrupted", "deleted"), 1)


async def test_cancel_before_the_prompt_sends_nothing() -> None:
    """While a picture is uploaded, or the socket opened, there is nothing to stop."""
    rules = [Rule(Stall(), operation="upload_image")]
    async with StandIn(script=rules) as standin, adapter(standin.url) as upstream, asyncio.TaskGroup() as group:
        call = group.create_task(reports(upstream, order(upstream, "img2img", inputs={"init": flat("red")})))
        await until(lambda: asked_for(standin, "/upload/image", "POST"))
        call.cancel()
        await asyncio.wait([call])
        assert (standin.calls, asked_for(standin, "/queue", "POST")) == (0, 0)


async def test_job_that_was_faster_is_left_as_it_is() -> None:
    """Cancelled between its end and its pictures: nobody else's work is touched."""
    rules = [Rule(Stall(), operation="view")]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await until(lambda: asked_for(standin, "/view"))
            call.cancel()
        assert (standin.jobs[0].state, standin.idle) == ("success", True)
        standin.script()
        assert opened(await reports(upstream, order(upstream, seed=9))).size == (64, 64)


async def test_old_server_is_never_interrupted_for_others() -> None:
    """After our prompt's end no interrupt goes out, for it would hit whatever runs."""
    rules = [Rule(Stall(), operation="view")]
    async with StandIn(step_time=0, old=True, script=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await until(lambda: asked_for(standin, "/view"))
            call.cancel()
        assert asked_for(standin, "/interrupt", "POST") == 0


async def test_cancel_of_a_server_that_hangs_takes_a_second() -> None:
    """What does not answer cannot be stopped, and holds nobody up."""
    held = Held()
    rules = [Rule(Stall(), operation="interrupt"), Rule(Stall(), operation="queue_edit")]
    async with StandIn(hold=held.hold, script=rules) as standin, adapter(standin.url) as upstream:
        async with asyncio.TaskGroup() as group:
            call = group.create_task(reports(upstream, order(upstream)))
            await held.reached.wait()
            began = time.monotonic()
            call.cancel()
        assert 0.5 < time.monotonic() - began < 1.2
        held.go_on.set()


# --- resume ---


@pytest.fixture
def held() -> Held:
    """Work that stops at its second step."""
    return Held()


async def test_lost_answer_is_found_by_our_own_id() -> None:
    """The prompt was taken and its answer lost: unknown, then found, and done once."""
    sent: list[None] = []
    rules = [Rule(Cut(), times=1)]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream, sent=lambda: sent.append(None))
        assert (await fault(upstream, asked)).outcome is Outcome.UNKNOWN
        told = await resumed(upstream, asked)
        assert opened(told).getpixel((0, 0)) == colour(7, "a lamp")
        assert (standin.calls, len(standin.jobs), sent) == (1, 1, [None])


@pytest.mark.parametrize("old", [False, True])
async def test_running_prompt_is_gone_on_with(held: Held, old: bool) -> None:
    """From a new process: nothing is heard of its steps, and its picture comes."""
    async with StandIn(step_time=0, hold=held.hold, old=old) as standin:
        async with adapter(standin.url) as first:
            asked = order(first)
            rules = [Rule(Cut(), times=1)]
            standin.script(*rules)
            assert (await fault(first, asked)).outcome is Outcome.UNKNOWN
            await held.reached.wait()
        async with adapter(standin.url) as second, asyncio.TaskGroup() as group:
            call = group.create_task(resumed(second, asked))
            await until(lambda: asked_for(standin, "/queue"))
            await asyncio.sleep(0.05)
            held.go_on.set()
        assert [type(report) for report in call.result()] == [WorkBegun, ImageMade]
        assert len(standin.jobs) == 1


async def test_socket_that_still_hears_goes_on_telling(held: Held) -> None:
    """In the same process the prompt's events still come here."""
    rules = [Rule(Cut(), times=1)]
    async with StandIn(step_time=0, hold=held.hold, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        assert (await fault(upstream, asked)).outcome is Outcome.UNKNOWN
        await held.reached.wait()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(resumed(upstream, asked))
            await until(lambda: asked_for(standin, "/queue"))
            await asyncio.sleep(0.05)
            held.go_on.set()
        assert steps(call.result())[-1] == (3, 3)


async def test_resumed_call_can_be_cancelled(held: Held) -> None:
    """It stops the work as in the first place."""
    rules = [Rule(Cut(), times=1)]
    async with StandIn(step_time=0, hold=held.hold, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        await fault(upstream, asked)
        await held.reached.wait()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(resumed(upstream, asked))
            await until(lambda: asked_for(standin, "/queue"))
            await asyncio.sleep(0.02)
            call.cancel()
            await until(lambda: asked_for(standin, "/interrupt", "POST"))
            held.go_on.set()
        await until(lambda: standin.jobs[0].state == "interrupted")


async def test_cancel_while_looking_up_stops_the_work(held: Held) -> None:
    """It was not found yet, and must not run on all the same."""
    rules = [Rule(Cut(), times=1), Rule(Stall(), operation="history")]
    async with StandIn(step_time=0, hold=held.hold, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        await fault(upstream, asked)
        await held.reached.wait()
        async with asyncio.TaskGroup() as group:
            call = group.create_task(resumed(upstream, asked))
            await until(lambda: asked_for(standin, "/history"))
            call.cancel()
            await until(lambda: asked_for(standin, "/interrupt", "POST"))
            held.go_on.set()
        await until(lambda: standin.jobs[0].state == "interrupted")


@pytest.mark.parametrize(
    "rule,outcome,code",
    [
        (PromptRule(Fail(at_step=2)), Outcome.FAILED, "upstream_error"),
        (PromptRule(Vanish(at_step=2)), Outcome.GONE, "worker_lost"),
    ],
)
async def test_resumed_call_tells_what_became_of_it(rule: PromptRule, outcome: Outcome, code: str) -> None:
    """As the call itself would have."""
    rules = [Rule(Cut(), times=1)]
    async with StandIn(step_time=0, prompts=[rule], script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        await fault(upstream, asked)
        await until(lambda: standin.idle)
        found = await fault(upstream, asked, resume=True)
        assert (found.outcome, found.code) == (outcome, code)


async def test_prompt_that_never_arrived_is_gone() -> None:
    """The server was asked and knows nothing of it."""
    rules = [Rule(Cut(), begun=False, times=1)]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        assert (await fault(upstream, asked)).outcome is Outcome.UNKNOWN
        assert (await fault(upstream, asked, resume=True)).outcome is Outcome.GONE


async def test_handle_comes_back_before_anything_else() -> None:
    """The id is noted again, so that a second crash finds it as well."""
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    async with StandIn(step_time=0) as standin, adapter(standin.url) as upstream:
        asked = order(upstream, noted=note)
        await reports(upstream, asked)
        await resumed(upstream, asked, prompt_id_of(asked.id))
        assert noted == [prompt_id_of(asked.id)] * 2


# --- look-ups that fail ---


FLAWS: dict[str, Any] = {
    "an error": Refuse(500),
    "a cut": Cut(),
    "no JSON": Garbage("not_json"),
    "half a JSON": Garbage("truncated_json"),
    "nothing": Garbage("empty"),
}


@pytest.mark.parametrize(
    "operation,name",
    [
        *((operation, name) for operation in ("history", "queue") for name in FLAWS),
        ("view", "an error"),
        ("view", "a cut"),
    ],
)
async def test_look_up_that_fails_is_asked_again(operation: str, name: str) -> None:
    """What only reads may be repeated."""
    rules = [Rule(FLAWS[name], operation=operation, times=1)]
    pause = [PromptRule(Pause(at_step=2, seconds=0.12))]
    async with StandIn(step_time=0, prompts=pause, script=rules) as standin:
        async with adapter(standin.url, quiet_seconds=0.05) as upstream:
            assert opened(await reports(upstream, order(upstream))).size == (64, 64)
        assert standin.calls == 1


@pytest.mark.parametrize("operation", ["history", "view"])
async def test_look_ups_that_always_fail_leave_the_outcome_open(operation: str) -> None:
    """After `reconnect_seconds`; later it can be found."""
    rules = [Rule(Refuse(500), operation=operation)]
    async with StandIn(step_time=0, script=rules) as standin, adapter(standin.url) as upstream:
        asked = order(upstream)
        assert (await fault(upstream, asked)).outcome is Outcome.UNKNOWN
        standin.script()
        assert opened(await resumed(upstream, asked)).size == (64, 64)
        assert standin.calls == 1


async def test_frozen_socket_costs_no_result() -> None:
    """One that does not even answer pings: the queue and the history are asked all the same."""
    async with StandIn(step_time=0, sockets=[SocketRule("frozen")]) as standin, adapter(standin.url) as upstream:
        assert opened(await reports(upstream, order(upstream))).size == (64, 64)


async def test_closed_adapter_leaves_the_work_alone() -> None:
    """A gateway that ends without cancelling its calls finds the result later."""
    async with StandIn(step_time=0.01) as standin:
        async with adapter(standin.url) as upstream:
            asked = order(upstream, steps=10)
            run = upstream.run(asked)
            await anext(run)
        async with aclosing(run):
            await until(lambda: standin.jobs[0].state == "success")
        async with adapter(standin.url) as later:
            assert opened(await resumed(later, asked)).size == (64, 64)
