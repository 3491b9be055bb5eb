"""What is seen of work that runs, by task and without; points 1 to 5 and 9 of what the real servers do."""

import asyncio
import base64
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from msgspec import structs

from gateway.core.reports import ImageMade, PreviewMade, Report, StepDone, WorkBegun
from gateway.upstreams.a1111.progress import (
    Attribution,
    Board,
    Follow,
    ServerProgress,
    State,
    TaskProgress,
    is_of_jobs,
    read_frame,
    read_server,
    read_task,
)
from load.upstreams.a1111 import JobError
from load.upstreams.a1111.drawing import FOREIGN_COLOUR
from load.upstreams.faults import Cut, Garbage, Refuse, Rule
from tests.gateway.upstreams.a1111.server import (
    CAT,
    StandIn,
    adapter,
    asked_for,
    body,
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

BOTH = pytest.mark.parametrize("web", [True, False], ids=["by task", "global"])


@BOTH
@pytest.mark.parametrize("flavour", ["forge", "a1111"])
async def test_steps_are_told_as_they_are_seen(flavour: Any, web: bool) -> None:
    """Points 1 and 9: nothing is pushed; each new step that a poll shows is told once, and none is made up."""
    async with StandIn(flavour=flavour, web=web, service_time=0.01) as standin, adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream))
    seen = [step for step, _ in steps(told)]
    assert is_in_order(told)
    assert seen == sorted(set(seen))
    assert len(seen) >= 4
    assert {total for _, total in steps(told)} == {10}
    # The server counts from 0, and falls back to 0 when it is done.
    assert max(seen) <= 10
    polls = asked_for(standin, "internal/progress" if web else "progress")
    assert polls >= len(seen)


@BOTH
async def test_steps_between_two_polls_are_not_made_up(web: bool) -> None:
    """Point 9: who looks seldom sees few steps."""
    async with (
        StandIn(web=web, service_time=0.01) as standin,
        adapter(standin.url, poll_seconds=0.045) as upstream,
    ):
        told = await reports(upstream, order(upstream))
    assert 0 < len(steps(told)) <= 4


@BOTH
async def test_previews_are_told_when_the_picture_changed(web: bool) -> None:
    """Points 4 and 5: the same picture is told once, however often the server sends it."""
    async with StandIn(web=web, service_time=0.01) as standin, adapter(standin.url) as upstream:
        standin.options["show_progress_every_n_steps"] = 3
        told = await reports(upstream, order(upstream))
    shown = previews(told)
    assert 1 <= len(shown) <= 4
    assert len({preview.picture.content for preview in shown}) == len(shown)
    assert (shown[0].picture.width, shown[0].approximate, shown[0].steps) == (8, True, 10)
    # On its way from grey to the picture's colour.
    done = [(pixel(preview)[0] - 128) / (CAT[0] - 128) for preview in shown]
    assert done == sorted(done)


@BOTH
async def test_no_picture_is_asked_for_where_none_is_wanted(web: bool) -> None:
    """Point 4: pictures cost the server a decode each."""
    async with (
        StandIn(web=web, service_time=0.005) as standin,
        adapter(standin.url, previews=False) as upstream,
    ):
        standin.options["show_progress_every_n_steps"] = 1
        assert not upstream.models[0].previews
        told = await reports(upstream, order(upstream))
    assert (previews(told), standin.state.image) == ([], None) if web else previews(told) == []


async def test_pictures_are_asked_for_only_at_new_steps() -> None:
    """Point 9: a look without a picture is cheap, so it comes first."""
    async with StandIn(service_time=0.03) as standin, adapter(standin.url) as upstream:
        seen: list[str] = []
        original = upstream._lookout.server

        async def noted(*, images: bool = False) -> ServerProgress | None:
            seen.append("picture" if images else "plain")
            return await original(images=images)

        upstream._lookout.server = noted  # type: ignore[method-assign]
        told = await reports(upstream, order(upstream, steps=4))
    assert seen.count("picture") == len(steps(told))
    assert seen.count("plain") > 2 * seen.count("picture")


@BOTH
async def test_frozen_progress_is_no_failure(web: bool) -> None:
    """Point 2: a build whose progress stands still for the whole job still makes the picture."""
    async with (
        StandIn(web=web, frozen_progress=True, service_time=0.005) as standin,
        adapter(standin.url) as upstream,
    ):
        told = await reports(upstream, order(upstream))
    assert steps(told) == []
    assert isinstance(told[0], WorkBegun)
    assert isinstance(told[-1], ImageMade)


@BOTH
async def test_progress_that_fell_to_nothing_is_no_failure(web: bool) -> None:
    """Point 2: the state is idle before the answer comes; nobody waits for 1, nor takes 0 for an end."""
    async with (
        StandIn(web=web, answer_delay=0.1, service_time=0.005) as standin,
        adapter(standin.url) as upstream,
    ):
        told = await reports(upstream, order(upstream))
    assert is_in_order(told)
    assert steps(told) == sorted(steps(told))
    assert pixel(finished(told)) == CAT


def finished(told: list[Report]) -> ImageMade:
    """The finished picture."""
    made = told[-1]
    assert isinstance(made, ImageMade)
    return made


async def test_what_the_last_job_left_is_not_told_of_the_next(standin: StandIn) -> None:
    """Point 2: between jobs the state still tells of the last one; a new job begins without it."""
    async with StandIn(service_time=0.004) as plain, adapter(plain.url) as upstream:
        await reports(upstream, order(upstream, steps=20))
        assert (plain.state.sampling_steps, plain.state.job_count) == (20, 0)
        told = await reports(upstream, order(upstream, steps=10, id="01KAN0CALL2"))
    assert {total for _, total in steps(told)} == {10}


async def test_work_of_another_from_the_web_page_is_never_told_as_ours() -> None:
    """Point 1: while somebody else's job runs, neither its steps nor its previews are reported."""
    async with StandIn(service_time=0.01) as standin, adapter(standin.url) as upstream:
        standin.options["show_progress_every_n_steps"] = 1
        standin.foreign_job(10)
        told = await reports(upstream, order(upstream))
    assert steps(told)
    assert not any(near(pixel(preview), FOREIGN_COLOUR, 60) for preview in previews(told))
    assert {total for _, total in steps(told)} == {10}


async def test_work_of_another_is_told_apart_by_the_task(standin: StandIn) -> None:
    """Point 5: by its id our task is queued while another one runs, and only then told."""
    async with adapter(standin.url) as upstream:
        standin.hold(job=1)
        standin.options["show_progress_every_n_steps"] = 1
        job = standin.foreign_job(10, step_seconds=0.002)
        await standin.held()
        told: list[Report] = []

        async def listen() -> None:
            told.extend(await reports(upstream, order(upstream, id="01KAN0QUEUE")))

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            await until(lambda: asked_for(standin, "internal/progress") > 5)
            assert told == []
            standin.release()
    assert job.ending == "done"
    assert is_in_order(told)
    assert body(standin, "txt2img")["force_task_id"] == "01kan0queue"


async def test_no_poll_has_an_empty_task(standin: StandIn) -> None:
    """Point 5: an empty id matches the idle server and returns the last user's preview, so none is ever sent."""
    async with adapter(standin.url) as upstream:
        await reports(upstream, order(upstream))
        await upstream.probe()
    polls = [one.json for one in standin.requests if one.call.operation == "internal/progress"]
    assert len(polls) >= 3
    assert all(poll["id_task"] for poll in polls)


async def test_failed_task_that_stays_active_is_over_all_the_same(standin: StandIn) -> None:
    """Point 5: a task that failed is told as active until the next begins, and never completed: the answer counts."""
    async with adapter(standin.url) as upstream:
        standin.script(Rule(do=JobError(at_step=3), times=1))
        found = await fault(upstream)
        told = await upstream._lookout.task("01kan0call")
        assert (found.code, told is not None and told.active) == ("upstream_error", True)
        assert is_in_order(await reports(upstream, order(upstream, id="01KAN0NEXT")))
    assert asked_for(standin, "interrupt") == 0


async def test_preview_number_is_sent_back(standin: StandIn) -> None:
    """Point 5: with the number of the newest preview the server sends it but once."""
    standin.options["show_progress_every_n_steps"] = 1
    async with adapter(standin.url) as upstream:
        standin.hold(step=2)
        async with asyncio.TaskGroup() as group:
            group.create_task(reports(upstream, order(upstream)))
            await standin.held()
            await until(lambda: body(standin, "internal/progress")["id_live_preview"] > 0)
            standin.release()
    assert [one.json for one in standin.requests if one.call.operation == "internal/progress"][1]["live_preview"]


@pytest.mark.parametrize("trouble", [Refuse(500), Garbage("not_json"), Garbage("truncated_json"), Cut(0), Cut(100)])
@BOTH
async def test_failing_looks_do_not_fail_the_work(web: bool, trouble: Any) -> None:
    """Point 2: only the answer to the request says what became of it."""
    operation = "internal/progress" if web else "progress"
    async with StandIn(web=web, service_time=0.002) as standin, adapter(standin.url) as upstream:
        standin.script(Rule(do=trouble, operation=operation))
        (made,) = await images(upstream, order(upstream))
    assert pixel(made) == CAT


async def test_slow_reader_holds_nothing_up_and_gets_the_newest() -> None:
    """A reader who sleeps finds the newest step and preview, not a backlog, and the work went on."""
    async with StandIn(web=True, service_time=0.005) as standin, adapter(standin.url) as upstream:
        standin.options["show_progress_every_n_steps"] = 1
        told: list[Report] = []
        async with aclosing(upstream.run(order(upstream, steps=30))) as run:
            async for report in run:
                told.append(report)
                if isinstance(report, WorkBegun):
                    await until(lambda: standin.jobs[0].ending == "done")
    assert len([one for one in told if isinstance(one, StepDone)]) <= 2
    assert len([one for one in told if isinstance(one, PreviewMade)]) <= 2
    assert isinstance(told[-1], ImageMade)


# --- the pure parts ---


def state(**fields: Any) -> ServerProgress:
    """An answer of `/sdapi/v1/progress`."""
    running = State(job="scripts_txt2img", job_count=1, job_timestamp="20261122110000", sampling_steps=10)
    return ServerProgress(structs.replace(running, **fields))


IDLE = ServerProgress(State(job_timestamp="20261122105900", sampling_steps=20))


def test_attribution_waits_for_what_ran_before() -> None:
    """Point 1: a job that ran before our request is not ours, until it is over by any sign."""
    running = state(sampling_step=4)
    for sign in (state(sampling_step=0), state(sampling_step=5, job_timestamp="20261122110001")):
        ours = Attribution("/sdapi/v1/txt2img", running)
        assert not ours.is_ours(state(sampling_step=5))
        assert ours.is_ours(sign)
    ours = Attribution("/sdapi/v1/txt2img", running)
    assert not ours.is_ours(IDLE)
    assert ours.is_ours(state(sampling_step=5))
    assert Attribution("/sdapi/v1/txt2img", IDLE).is_ours(running)
    assert Attribution("/sdapi/v1/txt2img", None).is_ours(running)


@pytest.mark.parametrize("job", ["task(abc)", "extras", "scripts_img2img", "API-IMG"])
def test_attribution_knows_other_work_by_its_name(job: str) -> None:
    """Point 1: the web page's jobs are named by their tasks, and ours after what was asked."""
    assert not Attribution("/sdapi/v1/txt2img", None).is_ours(state(job=job))
    assert Attribution("/sdapi/v1/img2img", None).is_ours(state(job="")) == Attribution("x", None).is_ours(
        state(job=None)
    )


def test_several_rounds_count_as_one_work() -> None:
    """Point 3: where a server makes rounds of its own, progress spans all of them."""
    follow = Follow(10)
    told = follow.server(state(job_count=2, job_no=1, sampling_step=3))
    assert told == [WorkBegun(10), StepDone("denoising", 13, 20)]
    assert follow.server(state(job_count=-1)) == []


def test_share_counts_as_steps() -> None:
    """A share of 3 tenths is 3 steps of 10, and what goes back is not told."""
    follow = Follow(10)
    shares = [0.0, 0.1, 0.3, 0.3, 0.2, 0.7, 1.0, None, 7.0]
    told = [follow.task(TaskProgress(active=True, progress=share)) for share in shares]
    assert [report.step for one in told for report in one if isinstance(report, StepDone)] == [1, 3, 7, 10]
    assert Follow(10).task(TaskProgress(active=False, progress=0.5)) == []


def test_preview_that_is_none_is_left_out() -> None:
    """A broken picture is no reason to stop looking; the same one is told once."""
    follow = Follow(10)
    good = base64.b64encode(flat("red")).decode()
    for coded, told in (('"@@"', 0), ('"AAAA"', 0), ("7", 0), (f'"data:image/png;base64,{good}"', 1), (f'"{good}"', 0)):
        raw = msgspec.Raw(coded.encode())
        found = follow.task(TaskProgress(active=True, live_preview=raw, id_live_preview=3))
        assert len([one for one in found if isinstance(one, PreviewMade)]) == told
    assert follow.seen_preview == 3


@pytest.mark.parametrize("text", [b"", b"[]", b'{"active": "x"}', b"<html>", b'{"state": 7}', b"\xff"])
def test_answers_of_another_shape_are_none(text: bytes) -> None:
    """Whatever a server says in the place of progress breaks nothing."""
    assert read_task(text) is None
    assert read_frame(text.decode("latin-1")).type == ""
    assert text == b'{"active": "x"}' or read_server(text) is None


async def test_board_keeps_the_newest_only() -> None:
    """However slow its reader, a board is no longer than three reports."""
    board = Board()
    board.put(WorkBegun(9))
    for number in range(1, 9):
        board.put(StepDone("denoising", number, 9))
    assert await board.take() == [WorkBegun(9), StepDone("denoising", 8, 9)]
    board.close()
    assert await board.take() == []
    assert board.is_done


def test_stored_jobs_are_known_by_the_name_of_what_runs() -> None:
    """What runs under no name, or under that of the first API, is not a stored job."""
    assert is_of_jobs("API-V2")
    assert not any(is_of_jobs(name) for name in (None, "", "task(somebody)", "API-TXT", "API-IMG"))
