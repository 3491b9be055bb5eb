"""Faults, deaths, connections and the command line of the stand-in of stable-diffusion.cpp's server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from load.upstreams.faults import Cut, Drip, Garbage, Refuse, Rule, ScriptError, Stall
from load.upstreams.pictures import colour_of
from load.upstreams.sdcpp import SdCpp
from load.upstreams.sdcpp.special import Special
from tests.load.upstreams.talk import connect, read_until_closed
from tests.load.upstreams.talk_sdcpp import SMALL, ask, drawn, ended, only, order, pictured, poll

Client = aiohttp.ClientSession
ROOT = Path(__file__).parents[3]
FIRST = frozenset({1})
TEXT_TO_IMAGE = {"prompt": "x", "width": 64, "height": 64}


async def webui(client: Client, url: str) -> Any:
    """POST txt2img."""
    return await ask(client, "POST", f"{url}/sdapi/v1/txt2img", json=TEXT_TO_IMAGE)


def at_work() -> list[asyncio.Task[Any]]:
    """The stand-in's own tasks that have not ended."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("sdcpp")]


# Faults of the transport


@pytest.mark.parametrize(
    "status,error,accepted",
    [
        (401, "scripted by the stand-in", 0),
        (402, "scripted by the stand-in", 0),
        (403, "scripted by the stand-in", 0),
        (429, "job queue is full", 0),
        (500, "server_error", 1),
        (503, "scripted by the stand-in", 0),
    ],
)
async def test_refusal_of_an_order(client: Client, status: int, error: str, accepted: int) -> None:
    """The errors after which work may have begun leave a job behind that nobody was told of."""
    async with SdCpp(script=[Rule(Refuse(status, retry_after=3), requests=FIRST)]) as standin:
        refused = await order(client, standin.url)
        assert (refused.status, refused.json, refused.headers["Retry-After"]) == (status, {"error": error}, "3")
        assert standin.tally.accepted == accepted
        assert (await order(client, standin.url)).status == 202


async def test_order_is_accepted_though_its_answer_is_lost(client: Client) -> None:
    """The connection is cut before the 202; the picture is drawn all the same."""
    async with SdCpp(script=[Rule(Cut(how="rst"), requests=FIRST)]) as standin:
        with pytest.raises(aiohttp.ClientError):
            await order(client, standin.url)
        await drawn(client, standin.url)
        assert (standin.tally.accepted, standin.tally.billed, standin.tally.completed) == (2, 2, 2)
        assert standin.log[0].outcome == "cut"


async def test_poll_can_fail_be_cut_stall_and_drip(client: Client) -> None:
    """Faults of polls are named by `operation` and leave the job alone."""
    rules = [
        Rule(Refuse(500), operation="job", times=1),
        Rule(Cut(at_byte=-10), operation="job", times=1),
        Rule(Stall(after_bytes=20), operation="job", times=1),
        Rule(Drip(piece_bytes=100, pause_seconds=0), operation="job", times=1),
    ]
    async with SdCpp(script=rules) as standin:
        job_id = (await order(client, standin.url)).json["id"]
        failed = await poll(client, standin.url, job_id)
        assert (failed.status, failed.json) == (500, {"error": "server_error"})
        with pytest.raises(aiohttp.ClientPayloadError):
            await poll(client, standin.url, job_id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await poll(client, standin.url, job_id)
        assert (await poll(client, standin.url, job_id)).status == 200
        assert (await ended(client, standin.url, job_id))["status"] == "completed"


async def test_scripted_time_is_the_jobs(client: Client) -> None:
    """`service_seconds` of an order is how long its drawing takes; its 202 comes at once."""
    async with SdCpp(script=[Rule(service_seconds=0.2)]) as standin:
        started = time.monotonic()
        job_id = (await order(client, standin.url)).json["id"]
        assert (await poll(client, standin.url, job_id)).json["status"] == "generating"
        await ended(client, standin.url, job_id)
        assert time.monotonic() - started >= 0.2


# Garbage


@pytest.mark.parametrize("what", ["not_json", "truncated_json", "empty", "huge"])
@pytest.mark.parametrize("operation", ["img_gen", "job", "txt2img"])
async def test_garbage_in_place_of_an_answer(client: Client, what: Any, operation: str) -> None:
    """Any answer can be spoilt; the status stays."""
    async with SdCpp() as standin:
        job_id = (await order(client, standin.url)).json["id"]
        await ended(client, standin.url, job_id)
        standin.script(Rule(Garbage(what, size_bytes=200_000), operation=operation))
        match operation:
            case "img_gen":
                spoilt = await order(client, standin.url)
            case "job":
                spoilt = await poll(client, standin.url, job_id)
            case _:
                spoilt = await webui(client, standin.url)
        assert spoilt.status in (200, 202)
        if what == "huge":
            assert len(spoilt.body) == 200_000
            assert "result" in spoilt.json
        else:
            with pytest.raises(json.JSONDecodeError):
                json.loads(spoilt.body)


@pytest.mark.parametrize("what", ["wrong_base64", "not_png"])
async def test_garbage_in_place_of_pictures(client: Client, what: Any) -> None:
    """Told of an order it spoils the job's result for good, told of a poll that one answer only."""
    async with SdCpp(script=[Rule(Garbage(what), requests=FIRST)]) as standin:
        bad = await ended(client, standin.url, (await order(client, standin.url)).json["id"])
        blocking = await webui(client, standin.url)
        assert pictured(blocking.json["images"][0]).size == (64, 64)
        standin.script(Rule(Garbage(what), operation="job", times=1), Rule(Garbage(what), operation="txt2img"))
        job_id = (await order(client, standin.url)).json["id"]
        async with asyncio.timeout(5):
            while standin.tally.completed != 3:
                await asyncio.sleep(0.001)
        spoilt = (await poll(client, standin.url, job_id)).json
        texts = [
            bad["result"]["images"][0]["b64_json"],
            spoilt["result"]["images"][0]["b64_json"],
            (await webui(client, standin.url)).json["images"][0],
        ]
        for text in texts:
            with pytest.raises((ValueError, OSError), match=r"base64|identify"):
                pictured(text)
        good = (await poll(client, standin.url, job_id)).json
        assert pictured(good["result"]["images"][0]["b64_json"]).size == (64, 64)


# What only this vendor does


@pytest.mark.parametrize("name", ["fail", "out_of_memory"])
async def test_job_fails(client: Client, name: str) -> None:
    """With the server's words, which do not tell the reasons apart, or with others; the worker goes on."""
    rules = [Rule(Special(name), requests=FIRST), Rule(Special(name, message="why"), requests=frozenset({2}))]
    async with SdCpp(script=rules) as standin:
        for message in ("generate_image returned no results", "why"):
            job = await ended(client, standin.url, (await order(client, standin.url)).json["id"])
            assert (job["status"], job["result"]) == ("failed", None)
            assert job["error"] == {"code": "generation_failed", "message": message}
        assert only((await drawn(client, standin.url))[0]) == colour_of(7, "a cat")
        assert (standin.tally.failed, standin.tally.billed) == (2, 3)


async def test_blocking_request_fails_with_500(client: Client) -> None:
    """The same words as an error."""
    async with SdCpp(script=[Rule(Special("out_of_memory"))]) as standin:
        failed = await webui(client, standin.url)
        assert (failed.status, failed.json) == (500, {"error": "generate_image returned no results"})


async def test_job_sticks_and_holds_the_worker(client: Client) -> None:
    """It stays in generating, cannot be cancelled, and nothing else is drawn."""
    async with SdCpp(script=[Rule(Special("stick"), requests=FIRST)], step_seconds=0) as standin:
        stuck, behind = [(await order(client, standin.url)).json["id"] for _ in range(2)]
        await asyncio.sleep(0.05)
        states = [(await poll(client, standin.url, job_id)).json["status"] for job_id in (stuck, behind)]
        assert states == ["generating", "queued"]
        await standin.kill()
        await standin.restart()
        assert (await poll(client, standin.url, stuck)).status == 404


async def test_job_that_sticks_for_a_time_ends(client: Client) -> None:
    """With `seconds` it is only very slow."""
    async with SdCpp(script=[Rule(Special("stick", seconds=0.05))], step_seconds=0) as standin:
        started = time.monotonic()
        await drawn(client, standin.url)
        assert time.monotonic() - started >= 0.05


async def test_result_expires_too_early(client: Client) -> None:
    """410 though the picture was drawn and nobody had seen it."""
    async with SdCpp(script=[Rule(Special("expire"), requests=FIRST)]) as standin:
        job_id = (await order(client, standin.url)).json["id"]
        async with asyncio.timeout(5):
            while (gone := await poll(client, standin.url, job_id)).status == 200:
                assert gone.json["status"] == "generating"
                await asyncio.sleep(0.002)
        assert (gone.status, gone.json) == (410, {"error": "job expired"})
        assert standin.tally.completed == 1


async def test_unknown_special_is_refused(client: Client) -> None:
    """By the constructor, and by the control path, which keeps the script that was."""
    with pytest.raises(ScriptError, match="explode"):
        SdCpp(script=[Rule(Special("explode"))])
    async with SdCpp(script=[Rule(Refuse(503))]) as standin:
        url = f"{standin.url}/__standin/script"
        refused = await ask(client, "POST", url, json=[{"do": {"kind": "special", "name": "explode"}}])
        assert refused.status == 400
        assert (await order(client, standin.url)).status == 503
        taken = await ask(client, "POST", url, json=[{"do": {"kind": "special", "name": "fail"}}])
        assert taken.status == 200
        job = await ended(client, standin.url, (await order(client, standin.url)).json["id"])
        assert job["status"] == "failed"


# Death and return


async def test_killed_server_drops_everybody_and_forgets_its_jobs(client: Client) -> None:
    """Polls, blocking requests and jobs end with the process; the same address then knows nothing."""
    async with SdCpp(step_seconds=1) as standin:
        url = standin.url
        job_id = (await order(client, url)).json["id"]
        blocking = asyncio.create_task(webui(client, url))
        while standin.calls != 2:
            await asyncio.sleep(0.001)
        started = time.monotonic()
        await standin.kill()
        assert not at_work()
        with pytest.raises(aiohttp.ClientError):
            await blocking
        with pytest.raises(aiohttp.ClientConnectorError):
            await poll(client, url, job_id)
        await standin.restart()
        assert standin.url == url
        assert (await poll(client, url, job_id)).status == 404
        again = (await order(client, url)).json["id"]
        assert again != job_id
        assert time.monotonic() - started < 1
        assert (standin.tally.accepted, standin.tally.completed) == (2, 0)


async def test_server_crashes_in_the_middle_of_a_job(client: Client) -> None:
    """By script, and comes back after `seconds`."""
    rules = [Rule(Special("crash", seconds=0.1), requests=FIRST, service_seconds=0.2)]
    async with SdCpp(script=rules) as standin:
        url = standin.url
        job_id = (await order(client, url)).json["id"]
        assert (await poll(client, url, job_id)).json["status"] == "generating"
        refusals = 0
        async with asyncio.timeout(5):
            while True:
                try:
                    reply = await poll(client, url, job_id)
                except aiohttp.ClientError:
                    refusals += 1
                else:
                    if reply.status == 404:
                        break
                await asyncio.sleep(0.002)
        assert refusals
        assert only((await drawn(client, url))[0]) == colour_of(7, "a cat")


async def test_crash_without_return_ends_a_blocking_request(client: Client) -> None:
    """The connection is dropped without an answer, and nobody listens after."""
    async with SdCpp(script=[Rule(Special("crash"))]) as standin:
        url = standin.url
        with pytest.raises(aiohttp.ClientError):
            await webui(client, url)
        with pytest.raises(aiohttp.ClientConnectorError):
            await webui(client, url)


async def test_stopping_is_quick_and_leaves_nothing(client: Client) -> None:
    """Jobs that run, wait or stick do not hold it up."""
    async with SdCpp(step_seconds=10, script=[Rule(Special("stick"))]) as standin:
        for _ in range(3):
            await order(client, standin.url)
        blocking = asyncio.create_task(webui(client, standin.url))
        while standin.calls != 4:
            await asyncio.sleep(0.001)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    with pytest.raises(aiohttp.ClientError):
        await blocking
    assert not at_work()


async def test_reset_forgets_jobs_and_counts(client: Client) -> None:
    """What runs goes on, in nobody's sight."""
    async with SdCpp(step_seconds=0.05) as standin:
        job_id = (await order(client, standin.url)).json["id"]
        standin.reset()
        assert (await poll(client, standin.url, job_id)).status == 404
        assert standin.tally.counters()["accepted"] == 0
        started = time.monotonic()
        await drawn(client, standin.url)
        assert time.monotonic() - started < 1


# Connections


async def raw(url: str, *requests: bytes) -> tuple[list[bytes], bool]:
    """The heads of the answers on one connection, and whether the server ended it."""
    reader, writer = await connect(url)
    heads = []
    try:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]))
            heads.append(head)
        async with asyncio.timeout(0.3):
            return heads, (await read_until_closed(reader)) == (b"", False)
    except TimeoutError:
        return heads, False
    finally:
        writer.close()


MODELS = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
NOWHERE = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_connection_ends_with_an_error(client: Client) -> None:
    """The head says so, and it is closed."""
    async with SdCpp() as standin:
        assert (await raw(standin.url, MODELS, MODELS))[1] is False
        heads, closed = await raw(standin.url, MODELS, NOWHERE)
        assert (b"Connection: close" in heads[0], b"Connection: close" in heads[1], closed) == (False, True, True)


async def test_connection_ends_after_its_last_request(client: Client) -> None:
    """The answer before the end says that it is the last."""
    async with SdCpp(keepalive_requests=3) as standin:
        heads, closed = await raw(standin.url, MODELS, MODELS, MODELS)
        assert ([b"Connection: close" in head for head in heads], closed) == ([False, False, True], True)


async def test_idle_connection_is_closed_without_a_word(client: Client) -> None:
    """A client that uses it at that moment sees it break."""
    async with SdCpp(keepalive_seconds=0.05) as standin:
        heads, closed = await raw(standin.url, MODELS)
        assert (b"Keep-Alive: timeout=5, max=100" in heads[0], closed) == (True, True)
        # A connection with a request under way is not idle.
        standin.script(Rule(service_seconds=0.1))
        assert (await ask(client, "GET", f"{standin.url}/v1/models")).status == 200
        assert (await webui(client, standin.url)).status == 200


async def test_head_has_the_servers_order_and_no_date(client: Client) -> None:
    """Byte by byte."""
    async with SdCpp() as standin:
        heads, _ = await raw(standin.url, MODELS)
        assert heads[0] == (
            b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 68\r\n"
            b"Content-Type: application/json\r\nAccess-Control-Allow-Methods: *\r\n"
            b"Access-Control-Allow-Credentials: true\r\nAccess-Control-Allow-Headers: *\r\n"
            b"Access-Control-Allow-Origin: *\r\n\r\n"
        )


# The log and the command line


async def test_log_abridges_uploads_and_counts_go_to_json(client: Client) -> None:
    """A megabyte of base64 is a digest in the log."""
    async with SdCpp() as standin:
        await order(client, standin.url, prompt="a" * 1001)
        fields = standin.log[0].fields
        assert fields is not None
        assert str(fields["prompt"]).startswith("<1001 characters, sha256 ")
        told = (await ask(client, "GET", f"{standin.url}/__standin/")).json
        assert told["counters"]["accepted"] == 1
        assert told["log"][0]["fields"]["seed"] == 7


async def test_stand_in_runs_from_a_shell(client: Client, tmp_path: Path) -> None:
    """It prints its address, obeys its options and its script, and ends at SIGTERM."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"requests": [2], "do": {"kind": "special", "name": "fail"}}]))
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "load.upstreams.sdcpp",
            "--width",
            "128",
            "--script",
            str(script),
            "--max-pending",
            "9",
        ),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            url = json.loads(await process.stdout.readline())["url"]
        told = (await ask(client, "GET", f"{url}/sdcpp/v1/capabilities")).json
        assert (told["defaults"]["width"], told["limits"]["max_queue_size"]) == (128, 9)
        assert (await drawn(client, url, **SMALL))[0].size == (64, 64)
        assert (await ended(client, url, (await order(client, url)).json["id"]))["status"] == "failed"
    finally:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_stand_in_takes_the_port_it_is_given(client: Client) -> None:
    """As a gateway's configuration needs it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with SdCpp(port=port) as standin:
        assert standin.url == f"http://127.0.0.1:{port}"
