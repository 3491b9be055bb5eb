"""SD.Next's stored jobs: followed over a WebSocket or by asking, and found again by their ids."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from gateway.core.reports import ImageMade, Outcome, Report, StepDone, UpstreamFault, WorkBegun
from gateway.ports import CallOrder
from gateway.upstreams.a1111 import A1111
from gateway.upstreams.a1111 import jobs as a1111_jobs
from load.upstreams.a1111 import Crash, JobError, Stuck, out_of_memory
from load.upstreams.a1111.drawing import FOREIGN_COLOUR
from load.upstreams.faults import Cut, Drip, Garbage, Refuse, Rule, Stall
from tests.gateway.upstreams.a1111.server import (
    CAT,
    INIT,
    PASSWORD,
    USER,
    StandIn,
    adapter,
    asked_for,
    fault,
    flat,
    images,
    is_in_order,
    near,
    order,
    pixel,
    previews,
    reports,
    steps,
    until,
)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silences and pauses are short."""
    monkeypatch.setattr(a1111_jobs, "_SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(a1111_jobs, "_PAUSES", (0.01, 0.02, 0.04))


@pytest.fixture
async def sdnext() -> AsyncIterator[StandIn]:
    """An SD.Next that takes 5 ms a step and tells every step."""
    async with StandIn(flavour="sdnext", service_time=0.005, poll_seconds=0.002) as running:
        yield running


async def resumed(upstream: A1111, asked: CallOrder, handle: str | None) -> list[Report]:
    """All reports of a call that is taken up again."""
    return [report async for report in upstream.resume(asked, handle)]


async def lost(upstream: A1111, asked: CallOrder, handle: str | None) -> Outcome:
    """How taking up a call again ends, which must be badly."""
    with pytest.raises(UpstreamFault) as caught:
        await resumed(upstream, asked, handle)
    return caught.value.outcome


async def test_job_is_followed_over_its_socket(sdnext: StandIn) -> None:
    """Steps and previews come as they are told, and the job's id is noted before anything else."""
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    async with adapter(sdnext.url) as upstream:
        told = await reports(upstream, order(upstream, noted=note, count=2, steps=20))
        assert upstream.can_find("job")
    assert is_in_order(told)
    seen = steps(told)
    assert len(seen) >= 5
    assert seen == sorted(set(seen))
    assert {total for _, total in seen} == {20}
    assert len(previews(told)) >= 3
    made = [report for report in told if isinstance(report, ImageMade)]
    assert [(image.index, image.seed, image.picture.format) for image in made] == [(0, 7, "jpeg"), (1, 8, "jpeg")]
    assert near(pixel(made[0]), CAT, 4)
    assert noted == list(sdnext.queue.jobs)
    assert (asked_for(sdnext, "jobs"), asked_for(sdnext, "progress")) == (1, 0)


@pytest.mark.parametrize("strength", [0.0, 0.65, 1.0])
async def test_job_edits_pictures(sdnext: StandIn, strength: float) -> None:
    """Init image, mask and strength mean what they mean elsewhere."""
    inputs = {"init": flat(INIT), "mask": flat(255, mode="L")}
    async with adapter(sdnext.url) as upstream:
        (made,) = await images(upstream, order(upstream, "inpaint", inputs, strength=strength))
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(INIT, CAT, strict=True))
    assert near(pixel(made), expected, 6)


async def test_what_jobs_cannot_do_goes_to_the_first_api(sdnext: StandIn) -> None:
    """Noise under a mask, schedulers, tiling, control images and enlarging are asked for there."""
    async with adapter(sdnext.url) as upstream:
        await images(upstream, order(upstream, scheduler="karras"))
        await images(upstream, order(upstream, "outpaint", {"init": flat("red")}, expand={"left": 8}))
        await images(upstream, order(upstream, "upscale", {"init": flat("red")}))
        await images(upstream, order(upstream, tiling=True, steps=2))
        assert asked_for(sdnext, "jobs") == 0
        assert await lost(upstream, order(upstream), None) is Outcome.GONE
    scheduled, tiled = (one.json for one in sdnext.requests if one.call.operation == "txt2img")
    assert (scheduled["scheduler"], tiled["tiling"], "tiling" in scheduled) == ("karras", True, False)


@pytest.mark.parametrize("trouble", [Refuse(403), Cut(0), Cut(2), Cut(4), Stall(3)])
async def test_broken_socket_does_not_break_the_work(sdnext: StandIn, trouble: Any) -> None:
    """It is opened again, or the job is asked for."""
    async with adapter(sdnext.url) as upstream:
        sdnext.script(Rule(do=trouble, operation="jobs/ws"))
        told = await reports(upstream, order(upstream, steps=20))
    assert is_in_order(told)
    assert steps(told)
    assert asked_for(sdnext, "jobs") == 1


async def test_password_opens_the_socket_by_a_ticket() -> None:
    """A socket takes no password."""
    async with (
        StandIn(flavour="sdnext", auth=f"{USER}:{PASSWORD}", service_time=0.003, poll_seconds=0.002) as standin,
        adapter(standin.url, user=USER, password=PASSWORD) as upstream,
    ):
        told = await reports(upstream, order(upstream))
    assert previews(told)
    assert [call.status for call in standin.log if call.operation == "jobs/ws"] == [101]


async def test_work_of_another_is_not_told_as_the_jobs(sdnext: StandIn) -> None:
    """Point 1: a job is "running" while another holds the server, and its frames then tell of that."""
    async with adapter(sdnext.url) as upstream:
        sdnext.foreign_job(20)
        told = await reports(upstream, order(upstream))
    assert not any(near(pixel(preview), FOREIGN_COLOUR, 60) for preview in previews(told))
    assert {total for _, total in steps(told)} == {10}


async def test_cancelled_job_is_stopped(sdnext: StandIn) -> None:
    """Point 6: cancelling a running job raises the flag that stops what runs; what comes of it is dropped for good."""
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    async with adapter(sdnext.url) as upstream:
        asked = order(upstream, steps=150, noted=note)
        async with asyncio.timeout(1), aclosing(upstream.run(asked)) as run:
            async for report in run:
                if isinstance(report, StepDone):
                    break
        (job,) = sdnext.queue.jobs.values()
        await until(lambda: job.over)
        # The server tells it as completed, with a picture that is not.
        assert (job.status, sdnext.jobs[0].ending) == ("completed", "interrupted")
        assert noted == [job.id, f"stopped:{job.id}"]
        assert await lost(upstream, asked, noted[-1]) is Outcome.GONE


@pytest.mark.parametrize("trouble", [Drip(piece_bytes=30, pause_seconds=0.01), Stall(0)])
async def test_cancellation_before_the_id_is_told(sdnext: StandIn, trouble: Any) -> None:
    """The id is waited for, but not for long, and the job taken out by it."""
    sdnext.script(Rule(do=trouble))
    async with adapter(sdnext.url) as upstream:
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream, steps=150)))
        await until(lambda: bool(sdnext.queue.jobs))
        task.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait([task])
        assert task.cancelled()
        assert asked_for(sdnext, "jobs/cancel") == isinstance(trouble, Drip)


async def test_pictures_over_the_bound_are_refused(sdnext: StandIn) -> None:
    """A picture takes no more memory than it may."""
    async with adapter(sdnext.url, max_answer_bytes=100) as upstream:
        found = await fault(upstream)
    assert (found.outcome, found.code) == (Outcome.FAILED, "invalid_output")


async def test_job_that_waits_is_taken_out(sdnext: StandIn) -> None:
    """It never runs."""
    async with adapter(sdnext.url) as upstream:
        sdnext.hold()
        first = sdnext.queue.submit({"type": "generate", "prompt": "x", "steps": 5})
        await sdnext.held()
        task = asyncio.get_running_loop().create_task(images(upstream, order(upstream)))
        await until(lambda: asked_for(sdnext, "jobs/ws") == 1)
        task.cancel()
        await asyncio.wait([task])
        sdnext.release()
        await until(lambda: first.over)
        assert [job.status for job in sdnext.queue.jobs.values()] == ["completed", "cancelled"]
        assert asked_for(sdnext, "jobs/cancel") == 1


async def test_job_cancelled_by_somebody_is_a_failure_now_and_gone_later(sdnext: StandIn) -> None:
    """Nobody who watches a waiting job is told; so it is asked for after a silence."""
    async with adapter(sdnext.url) as upstream:
        sdnext.hold()
        sdnext.queue.submit({"type": "generate", "prompt": "x", "steps": 5})
        await sdnext.held()
        task = asyncio.get_running_loop().create_task(fault(upstream))
        await until(lambda: asked_for(sdnext, "jobs/ws") == 1)
        waiting = list(sdnext.queue.jobs)[-1]
        sdnext.queue.cancel(waiting)
        found = await task
        assert (found.outcome, found.code) == (Outcome.FAILED, "upstream_error")
        assert await lost(upstream, order(upstream), waiting) is Outcome.GONE
        sdnext.release()


FAILURES = [
    (JobError("RuntimeError", "made up /models/x"), Outcome.FAILED, "upstream_error"),
    (out_of_memory(), Outcome.FAILED, "out_of_memory"),
    (Crash(at_step=2), Outcome.UNKNOWN, "outcome_unknown"),
    (Crash(at_step=2, down_seconds=0.02), Outcome.GONE, "worker_lost"),
    (Refuse(400), Outcome.FAILED, "upstream_error"),
    (Refuse(503), Outcome.REFUSED, "model_unavailable"),
    (Cut(0), Outcome.UNKNOWN, "outcome_unknown"),
    (Garbage("not_json"), Outcome.FAILED, "invalid_output"),
]


@pytest.mark.parametrize("what,outcome,code", FAILURES, ids=str)
async def test_failure_of_a_job_is_told(sdnext: StandIn, what: Any, outcome: Outcome, code: str) -> None:
    """Each way to fail has its outcome; a job lost in a restart may be begun again."""
    async with adapter(sdnext.url) as upstream:
        sdnext.script(Rule(do=what))
        found = await fault(upstream)
    assert (found.outcome, found.code, found.charged) == (outcome, code, False)
    assert "/models" not in str(found.details)
    assert sdnext.calls == 1


@pytest.mark.parametrize(
    "what,outcome",
    [
        (Refuse(404), Outcome.FAILED),
        (Refuse(500), Outcome.FAILED),
        (Garbage("not_json"), Outcome.FAILED),
        (Cut(0), Outcome.UNKNOWN),
    ],
)
async def test_pictures_that_cannot_be_fetched_are_told(sdnext: StandIn, what: Any, outcome: Outcome) -> None:
    """The job is done, so a lost connection leaves the outcome to be found out."""
    async with adapter(sdnext.url) as upstream:
        sdnext.script(Rule(do=what, operation="jobs/file"))
        found = await fault(upstream)
        assert found.outcome is outcome
        sdnext.script()
        told = await resumed(upstream, order(upstream), next(iter(sdnext.queue.jobs)))
    assert [type(report) for report in told] == [ImageMade]


async def test_job_that_takes_too_long_is_stopped(sdnext: StandIn) -> None:
    """Its outcome is unknown to the caller, and what comes of it is not taken for finished."""
    noted: list[str] = []

    async def note(handle: str) -> None:
        noted.append(handle)

    sdnext.script(Rule(do=Stuck(at_step=3, heeds_interrupt=True)))
    async with adapter(sdnext.url, timeout_seconds=0.15) as upstream:
        found = await fault(upstream, order(upstream, noted=note))
        await until(lambda: sdnext.jobs[0].ending == "interrupted")
        assert await lost(upstream, order(upstream), noted[-1]) is Outcome.GONE
    assert found.outcome is Outcome.UNKNOWN


async def test_lost_call_is_found_running_and_ended(sdnext: StandIn) -> None:
    """A gateway that starts anew goes on with the job, however far it is, and begins none."""
    async with adapter(sdnext.url) as upstream:
        job = sdnext.queue.submit(
            {"type": "generate", "prompt": "a cat", "seed": 7, "steps": 20, "width": 64, "height": 64}
        )
        await until(lambda: bool(sdnext.jobs) and sdnext.jobs[0].steps_done > 3)
        running = await resumed(upstream, order(upstream, steps=20), job.id)
        ended = await resumed(upstream, order(upstream, steps=20), job.id)
    assert steps(running)
    assert isinstance(running[0], WorkBegun)
    for told in (running, ended):
        made = told[-1]
        assert isinstance(made, ImageMade)
        assert near(pixel(made), CAT, 4)
    assert len(ended) == 1
    assert len(sdnext.queue.jobs) == 1


async def test_job_that_nobody_knows_is_gone(sdnext: StandIn) -> None:
    """Where the server says that there is none, the work may be begun again; where it says nothing, not."""
    async with adapter(sdnext.url) as upstream:
        asked = order(upstream)
        assert await lost(upstream, asked, "0123456789abcdef") is Outcome.GONE
        assert await lost(upstream, asked, None) is Outcome.GONE
        await sdnext.kill()
        assert await lost(upstream, asked, "0123456789abcdef") is Outcome.UNKNOWN


async def test_settled_flavour_is_not_asked_for(standin: StandIn) -> None:
    """Who says that it is a Forge gets one, and SD.Next may be looked up before it was ever asked."""
    async with adapter(standin.url, flavour="forge") as upstream:
        await images(upstream, order(upstream))
        assert not upstream.can_find("job")
    assert asked_for(standin, "unknown") == 0
    assert A1111(name="x", base_url="http://x", flavour="sdnext").can_find("job")


async def test_older_and_newer_builds_are_understood() -> None:
    """The one tells a cancellation by a status, the other answers 204 with nothing."""
    for variant in ({"older": True}, {"no_content": True}):
        options: dict[str, Any] = {"flavour": "sdnext", "service_time": 0.005, **variant}
        async with StandIn(**options) as standin, adapter(standin.url) as upstream:
            async with aclosing(upstream.run(order(upstream, scheduler="karras", steps=100))) as run:
                async for report in run:
                    if isinstance(report, WorkBegun):
                        break
            await until(lambda: standin.jobs[0].ending == "interrupted")
            await images(upstream, order(upstream, id="01KAN0NEXT"))
