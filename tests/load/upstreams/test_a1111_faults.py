"""The stand-in of the WebUI family: faults, dying and coming back, counters and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from load.upstreams.a1111 import A1111, Crash, JobError, Stuck, out_of_memory
from load.upstreams.faults import Cut, Drip, Fault, Garbage, Refuse, Rule, Stall, rules_from_json
from tests.load.upstreams.a1111_talk import SMALL, draw, get, post, until

Client = aiohttp.ClientSession
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("status", [401, 402, 403, 429, 500, 503])
async def test_scripted_refusals(client: Client, status: int) -> None:
    """Any status; a 500 comes from inside the work, which was begun, all others before it."""
    rule = Rule(Refuse(status, message="not now", retry_after=3 if status == 429 else None), last=1)
    async with A1111(script=[rule]) as standin:
        reply = await draw(client, standin)
        assert (await draw(client, standin)).status == 200
        assert standin.tally.billed == 1 + (status == 500)
        assert len(standin.jobs) == 1 + (status == 500)
    assert reply.status == status
    assert reply.headers.get("Retry-After") == ("3" if status == 429 else None)
    assert reply.json.get("message" if status == 500 else "detail") == "not now"


@pytest.mark.parametrize(
    "fault,name,steps",
    [
        (JobError("ValueError", "bad", 0), "ValueError", 0),
        (JobError(at_step=3), "RuntimeError", 2),
        (out_of_memory(2), "OutOfMemoryError", 1),
    ],
)
async def test_errors_from_inside_the_job(client: Client, fault: Fault, name: str, steps: int) -> None:
    """500 with the exception's class; the task stays active until the next one begins."""
    async with A1111(web=True, script=[Rule(fault, last=1)]) as standin:
        reply = await draw(client, standin, force_task_id="task(bad)")
        assert (reply.status, reply.json["error"]) == (500, name)
        assert (standin.jobs[0].ending, standin.jobs[0].steps_done) == ("failed", steps)
        ask = {"id_task": "task(bad)"}
        assert (await post(client, standin, "/internal/progress", ask)).json["active"] is True
        assert (await draw(client, standin)).status == 200
        told = (await post(client, standin, "/internal/progress", ask)).json
        assert (told["active"], told["completed"]) == (False, False)


@pytest.mark.parametrize("heeds,ending", [(True, "interrupted"), (False, "killed")])
async def test_a_stuck_job_blocks_all_others(client: Client, heeds: bool, ending: str) -> None:
    """It keeps the lock and its progress; only one that heeds interrupts can be helped."""
    async with A1111(script=[Rule(Stuck(3, heeds_interrupt=heeds), last=1)]) as standin:
        stuck = asyncio.create_task(draw(client, standin))
        await until(lambda: bool(standin.jobs) and standin.jobs[0].steps_done == 2)
        waiting = asyncio.create_task(draw(client, standin))
        await until(lambda: len(standin.jobs) == 2)
        await post(client, standin, "interrupt")
        if not heeds:
            await asyncio.sleep(0.03)
            assert (await get(client, standin, "progress")).json["state"]["interrupted"]
            assert not waiting.done()
            assert not stuck.done()
            await standin.kill()
        replies = await asyncio.gather(stuck, waiting, return_exceptions=True)
        assert standin.jobs[0].ending == ending
        assert all(isinstance(reply, aiohttp.ClientError) for reply in replies) is not heeds


async def test_kill_drops_everything_and_restart_comes_back_empty(client: Client) -> None:
    """The same port, no jobs, no tasks, a fresh state; the options are on the disk."""
    async with A1111(web=True) as standin:
        url = standin.url
        await post(client, standin, "options", {"jpeg_quality": 11})
        await draw(client, standin, force_task_id="task(done)")
        standin.hold(0, 1)
        asking = asyncio.create_task(draw(client, standin))
        await standin.held()
        began = time.monotonic()
        await standin.kill()
        with pytest.raises(aiohttp.ClientError):
            await asking
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(client, standin, "progress")
        await standin.restart()
        assert time.monotonic() - began < 1
        assert standin.url == url
        assert (await get(client, standin, "progress")).json["state"]["job_timestamp"] == "0"
        told = (await post(client, standin, "/internal/progress", {"id_task": "task(done)"})).json
        assert told["completed"] is False
        assert (await get(client, standin, "options")).json["jpeg_quality"] == 11
        assert (await draw(client, standin)).status == 200


async def test_scripted_crash_comes_back_by_itself(client: Client) -> None:
    """The server dies in the second step of the first job and is up again a little later."""
    async with A1111(script=[Rule(Crash(2, down_seconds=0.05), last=1)]) as standin:
        with pytest.raises(aiohttp.ClientError):
            await draw(client, standin)
        assert (await _when_up(client, standin)) == 200
        assert standin.tally.billed == 2


async def _when_up(client: Client, standin: A1111) -> int:
    async with asyncio.timeout(5):
        while True:
            try:
                return (await draw(client, standin)).status
            except (aiohttp.ClientError, RuntimeError):  # it has no address while it is down
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", [Refuse(500), Garbage("not_json"), Stall()])
async def test_progress_may_fail_while_the_job_goes_on(client: Client, fault: Fault) -> None:
    """A rule that names the operation meets the polls and leaves the job alone."""
    async with A1111(script=[Rule(fault, operation="progress", last=1)]) as standin:
        standin.hold(0, 1)
        asking = asyncio.create_task(draw(client, standin))
        await standin.held()
        try:
            reply = await get(client, standin, "progress", timeout=aiohttp.ClientTimeout(0.1))
            assert reply.status == 500 or not reply.body.startswith(b"{")
        except TimeoutError:
            assert isinstance(fault, Stall)
        assert (await get(client, standin, "progress")).json["progress"] == 0.26
        standin.release()
        assert (await asking).status == 200


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_answer_lost_after_the_work(client: Client, how: Any) -> None:
    """The work was done and billed; its answer never came."""
    async with A1111(script=[Rule(Cut(0, how), last=1)]) as standin:
        with pytest.raises(aiohttp.ClientError):
            await draw(client, standin)
        assert (standin.jobs[0].ending, standin.tally.billed, standin.log[0].outcome) == ("done", 1, "cut")


async def test_cut_inside_the_answer(client: Client) -> None:
    """The head came, the pictures did not."""
    async with A1111(script=[Rule(Cut(-10))]) as standin:
        with pytest.raises(aiohttp.ClientPayloadError):
            await draw(client, standin)


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "wrong_base64", "not_png", "empty", "huge"])
async def test_garbage(client: Client, what: Any) -> None:
    """200 with a body that is wrong, of its proper length."""
    async with A1111(script=[Rule(Garbage(what, size_bytes=3_000_000))]) as standin:
        reply = await draw(client, standin)
        assert standin.tally.billed == 1
    assert reply.status == 200
    assert len(reply.body) == 3_000_000 if what == "huge" else len(reply.body) < 10_000


async def test_huge_pictures_and_slow_delivery(client: Client) -> None:
    """A picture can weigh what a real one does, and an answer can drip."""
    async with A1111(picture_bytes=500_000, script=[Rule(Drip(200_000, 0.001))]) as standin:
        reply = await draw(client, standin, batch_size=2)
    assert [len(text) for text in reply.json["images"]] == [666_668, 666_668]


async def test_time_of_a_job_can_be_scripted(client: Client) -> None:
    """A rule's seconds are spread over the steps."""
    async with A1111(script=[Rule(service_seconds=0.2)]) as standin:
        began = time.monotonic()
        await draw(client, standin, steps=2)
    assert 0.2 <= time.monotonic() - began < 1


async def test_counters_tell_calls_begun_work_and_endings(client: Client) -> None:
    """Called when read, billed when begun; each with its request as it came."""
    async with A1111() as standin:
        await draw(client, standin)
        await post(client, standin, "txt2img", {"steps": "many"})
        await draw(client, standin, n_iter=3)
        assert (standin.calls, standin.tally.billed, standin.tally.counters()["billed_images"]) == (3, 2, 4)
        assert [received.json.get("n_iter") for received in standin.requests] == [None, None, 3]
        counters = (await get(client, standin, "/__standin/counters")).json
        assert counters["statuses"] == {"200": 2, "422": 1}
        assert [job.ending for job in standin.jobs] == ["done", "done"]


async def test_everything_ends_at_once_with_work_in_flight(client: Client) -> None:
    """Leaving the stand-in with a running, a waiting and a foreign job takes well under a second."""
    async with A1111() as standin:
        standin.foreign_job(steps=10_000)
        asking = [asyncio.create_task(draw(client, standin)) for _ in range(2)]
        await until(lambda: len(standin.jobs) == 3)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    for reply in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(reply, aiohttp.ClientError)


def test_vendor_faults_have_a_json_form() -> None:
    """Scripts in a file can name them."""
    rules = rules_from_json(
        [
            {"do": {"kind": "job_error", "error": "ValueError", "at_step": 2}},
            {"do": {"kind": "stuck", "seconds": 1}},
            {"do": {"kind": "crash", "down_seconds": 0.5}},
        ]
    )
    assert [rule.do for rule in rules] == [
        JobError("ValueError", at_step=2),
        Stuck(seconds=1),
        Crash(down_seconds=0.5),
    ]


async def test_it_runs_from_a_shell_until_sigterm(client: Client, tmp_path: Path) -> None:
    """One line of JSON with the address, then service, then a clean end."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"do": {"kind": "job_error"}, "last": 1}]))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "load.upstreams.a1111", "--web", "--script", str(script), "--foreign-steps", "2"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
    )
    try:
        assert process.stdout is not None
        url = json.loads(await process.stdout.readline())["url"]
        statuses = []
        for _ in range(2):
            async with client.post(f"{url}/sdapi/v1/txt2img", json=SMALL) as response:
                statuses.append(response.status)
        assert statuses == [500, 200]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
