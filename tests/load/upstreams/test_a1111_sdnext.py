"""The stand-in of SD.Next: its variants of the first API, and its jobs with a WebSocket each."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from PIL import Image

from load.upstreams.a1111 import A1111, JobError
from load.upstreams.faults import Cut, Refuse, Rule
from tests.load.upstreams.a1111_talk import COLOUR, SMALL, coded, draw, get, pixel, post, until
from tests.load.upstreams.talk import flat

Client = aiohttp.ClientSession
JOB: dict[str, Any] = {"type": "generate", **SMALL}
RED = (200, 10, 10)


def sdnext(**more: Any) -> A1111:
    """The stand-in, with a quick poller and PNG for exact pixels."""
    more.setdefault("poll_seconds", 0.002)
    standin = A1111(flavour="sdnext", **more)
    standin.options["samples_format"] = "png"
    return standin


async def submit(client: Client, standin: A1111, **fields: object) -> dict[str, Any]:
    """POST a job that must be taken."""
    reply = await post(client, standin, "/sdapi/v2/jobs", JOB | fields)
    assert reply.status == 202
    return dict(reply.json)


async def ended(client: Client, standin: A1111, id_: str) -> dict[str, Any]:
    """The job once it is over."""
    await until(lambda: standin.queue.jobs[id_].status not in ("pending", "running"))
    return dict((await get(client, standin, f"/sdapi/v2/jobs/{id_}")).json)


async def frames(client: Client, standin: A1111, id_: str) -> list[Any]:
    """All frames until the server closes: JSON objects, and bytes."""
    async with client.ws_connect(f"{standin.url}/sdapi/v2/jobs/{id_}/ws") as socket:
        standin.release()
        return [
            message.data if message.type is aiohttp.WSMsgType.BINARY else json.loads(message.data)
            async for message in socket
        ]


async def test_a_job_from_pending_to_its_picture(client: Client) -> None:
    """202, then status, result and the picture by its address."""
    async with sdnext() as standin:
        job = await submit(client, standin, batch_count=2)
        assert list(job) == [
            *("id", "type", "status", "progress", "step", "steps", "created_at", "started_at", "completed_at"),
            *("error", "result"),
        ]
        assert job["status"] == "pending"
        over = await ended(client, standin, job["id"])
        assert (over["status"], [one["index"] for one in over["result"]["images"]]) == ("completed", [0, 1])
        assert "path" not in over["result"]["images"][0]
        picture = await get(client, standin, over["result"]["images"][0]["url"])
        assert (picture.headers["Content-Type"], pixel(Image.open(io.BytesIO(picture.body)))) == ("image/png", COLOUR)
        listed = (await get(client, standin, "/sdapi/v2/jobs?status=completed")).json
        assert (listed["total"], listed["items"][0]["id"], listed["limit"]) == (1, job["id"], 20)
        assert (await get(client, standin, "/sdapi/v2/jobs?limit=101")).status == 422
        assert (standin.calls, standin.tally.billed) == (1, 1)


async def test_frames_of_a_job(client: Client) -> None:
    """Status, progress with previews as bare JPEG between, and the result at the end."""
    async with sdnext(service_time=0.01) as standin:
        standin.hold(0, 0)
        job = await submit(client, standin)
        await standin.held()
        got = await frames(client, standin, job["id"])
    objects = [one for one in got if isinstance(one, dict)]
    pictures = [one for one in got if isinstance(one, bytes)]
    assert objects[0] == {"type": "status", "status": "running", "progress": 0.0}
    assert {one["type"] for one in objects[1:-1]} == {"progress"}
    assert list(objects[1]) == ["type", "step", "steps", "progress", "eta", "task", "textinfo"]
    steps = [one["step"] for one in objects[1:-1]]
    assert steps == sorted(steps)
    assert pictures
    assert all(Image.open(io.BytesIO(one)).format == "JPEG" for one in pictures)
    assert objects[-1]["type"] == "completed"
    assert objects[-1]["result"]["images"][0]["path"]


async def test_frames_of_a_finished_job(client: Client) -> None:
    """Who comes late gets the state and the ending, then a close."""
    async with sdnext(script=[Rule(JobError("ValueError", "no"), first=2, last=2)]) as standin:
        done, failed = await submit(client, standin), await submit(client, standin)
        await ended(client, standin, failed["id"])
        assert [one["type"] for one in await frames(client, standin, done["id"])] == ["status", "completed"]
        assert (await frames(client, standin, failed["id"]))[1] == {"type": "error", "error": "ValueError: no"}


async def test_cancelling(client: Client) -> None:
    """A waiting job is cancelled; a running one is interrupted and completes; a finished one is 409."""
    async with sdnext() as standin:
        standin.hold(0, 1)
        running, waiting = await submit(client, standin), await submit(client, standin)
        await standin.held()
        for job in (running, waiting):
            async with client.delete(f"{standin.url}/sdapi/v2/jobs/{job['id']}") as response:
                assert await response.json() == {"id": job["id"], "status": "cancelled"}
        standin.release()
        assert (await ended(client, standin, running["id"]))["status"] == "completed"
        assert (await ended(client, standin, waiting["id"]))["status"] == "cancelled"
        assert standin.jobs[0].ending == "interrupted"
        assert [one["type"] for one in await frames(client, standin, waiting["id"])] == ["status", "cancelled"]
        async with client.delete(f"{standin.url}/sdapi/v2/jobs/{running['id']}") as response:
            assert response.status == 409
            assert (await response.json())["code"] == 409


@pytest.mark.parametrize("older", [True, False])
async def test_a_job_cancelled_before_its_turn(client: Client, older: bool) -> None:
    """It is running by its status while somebody else has the card; the interrupt hits them."""
    async with sdnext(older=older, ping_seconds=0.02) as standin:
        standin.hold(0, 1, 1)
        foreign = standin.foreign_job(steps=100)
        await standin.held()
        job = await submit(client, standin)
        await until(lambda: standin.queue.jobs[job["id"]].status == "running")
        watching = asyncio.create_task(_first_cancelled(client, standin, job["id"]))
        await asyncio.sleep(0.02)
        async with client.delete(f"{standin.url}/sdapi/v2/jobs/{job['id']}") as response:
            assert response.status == 200
        standin.release()
        frame = await watching
        await foreign.over.wait()
        assert foreign.ending == "interrupted"
    assert frame == ({"type": "status", "status": "cancelled"} if older else {"type": "cancelled"})


async def _first_cancelled(client: Client, standin: A1111, id_: str) -> Any:
    async with client.ws_connect(f"{standin.url}/sdapi/v2/jobs/{id_}/ws") as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT and "cancelled" in message.data:
                return json.loads(message.data)
    return None


async def test_commands_and_pings_over_the_websocket(client: Client) -> None:
    """An interrupt is acknowledged; an idle connection is pinged; nonsense is ignored."""
    async with sdnext(ping_seconds=0.02) as standin:
        standin.hold(0, 1)
        job = await submit(client, standin)
        await standin.held()
        kinds: list[str] = []
        async with client.ws_connect(f"{standin.url}/sdapi/v2/jobs/{job['id']}/ws") as socket:
            await socket.send_str("nonsense")
            await socket.send_json({"type": "interrupt"})
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    kinds.append(json.loads(message.data)["type"])
                if {"ack", "ping"} <= set(kinds):
                    standin.release()
        assert kinds[-1] == "completed"
        assert standin.jobs[0].ending == "interrupted"


async def test_restart_fails_what_ran_and_goes_on_with_what_waited(client: Client) -> None:
    """Jobs are stored; a connection that watched one just breaks."""
    async with sdnext() as standin:
        standin.hold(0, 1)
        running, waiting = await submit(client, standin), await submit(client, standin)
        await standin.held()
        async with client.ws_connect(f"{standin.url}/sdapi/v2/jobs/{running['id']}/ws") as socket:
            await standin.kill()
            kinds = [message.type async for message in socket]
            assert aiohttp.WSMsgType.CLOSE not in kinds
            assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        await standin.restart()
        over = await ended(client, standin, running["id"])
        assert (over["status"], over["error"]) == ("failed", "Server restarted")
        assert (await ended(client, standin, waiting["id"]))["status"] == "completed"


async def test_tickets_open_the_websocket_when_access_is_guarded(client: Client) -> None:
    """Without a good ticket, and for an unknown job, the handshake is refused."""
    auth = {"Authorization": aiohttp.encode_basic_auth("me", "pw")}
    async with sdnext(auth="me:pw") as standin:
        assert (await post(client, standin, "/sdapi/v2/jobs", JOB)).status == 401
        id_ = (await post(client, standin, "/sdapi/v2/jobs", JOB, headers=auth)).json["id"]
        ticket = (await post(client, standin, "/sdapi/v2/ws-ticket", headers=auth)).json["ticket"]
        url = f"{standin.url}/sdapi/v2/jobs/{id_}/ws"
        async with client.ws_connect(f"{url}?ticket={ticket}") as socket:
            assert (await socket.receive_json())["type"] == "status"
        for bad in (url, f"{url}?ticket={ticket}"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await client.ws_connect(bad)


async def test_faults_on_the_websocket(client: Client) -> None:
    """It can be refused, and break after so many frames."""
    rules = [Rule(Refuse(503), operation="jobs/ws", times=1), Rule(Cut(1), operation="jobs/ws", times=1)]
    async with sdnext(script=rules) as standin:
        standin.hold(0, 1)
        job = await submit(client, standin)
        url = f"{standin.url}/sdapi/v2/jobs/{job['id']}/ws"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await client.ws_connect(url)
        async with client.ws_connect(url) as socket:
            standin.release()
            got = [message async for message in socket]
            assert (len(got), socket.close_code) == (1, aiohttp.WSCloseCode.ABNORMAL_CLOSURE)
        assert (await ended(client, standin, job["id"]))["status"] == "completed"


async def test_kinds_of_jobs(client: Client) -> None:
    """An init picture and an upscaling; an unknown kind is 400, a video fails."""
    async with sdnext() as standin:
        edit = await submit(client, standin, inits=[coded(flat(64, 64, RED))], denoising_strength=0)
        large = await submit(client, standin, type="upscale", image=coded(flat(16, 16, RED)), upscaler="Lanczos")
        video = await submit(client, standin, type="video")
        assert (await ended(client, standin, video["id"]))["status"] == "failed"
        files = [standin.queue.jobs[job["id"]].files[0] for job in (edit, large)]
        assert pixel(Image.open(io.BytesIO(files[0].data))) == RED
        assert (files[1].width, files[1].height) == (32, 32)
        for body in ({"prompt": "x"}, {"type": "nope"}):
            assert (await post(client, standin, "/sdapi/v2/jobs", body)).status == 400
        assert (await get(client, standin, "/sdapi/v2/jobs/nope")).json["detail"] == "Job not found: nope"


async def test_first_api_as_sdnext_speaks_it(client: Client) -> None:
    """Progress has an id, two digits, and stays high after the end; options tell what changed."""
    async with sdnext() as standin:
        standin.hold(0, 1)
        asking = asyncio.create_task(draw(client, standin, steps=3))
        await standin.held()
        told = (await get(client, standin, "progress")).json
        assert (told["progress"], bool(told["id"]), told["state"]["job"]) == (0.33, True, "API-TXT")
        assert "stopping_generation" not in told["state"]
        standin.release()
        assert (await asking).status == 200
        after = (await get(client, standin, "progress")).json
        assert (after["progress"], after["state"]["job_count"]) == (0.67, 0)
        changed = await post(client, standin, "options", {"jpeg_quality": 1, "samples_format": "png"})
        assert changed.json == {"updated": [{"jpeg_quality": True}, {"samples_format": False}]}
        none = await post(client, standin, "img2img", {"prompt": "x"})
        assert (none.status, none.json) == (400, {"error": "Init image is none"})


async def test_newest_builds_answer_without_content(client: Client) -> None:
    """Interrupt and skip are 204 there."""
    for no_content, status in ((True, 204), (False, 200)):
        async with sdnext(no_content=no_content) as standin:
            assert (await post(client, standin, "interrupt")).status == status
