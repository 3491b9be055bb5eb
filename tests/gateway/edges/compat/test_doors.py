"""Jobs that came through a door, seen from elsewhere; what admission sees of them is in `test_same_admission`."""

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import select

from gateway.edges.compat.patience import MOST_OF_JOB
from gateway.ledger import schema
from gateway.upstreams.stability_v1 import Engine, StabilityV1
from protocol.client import Client
from protocol.messages import Completed
from tests.end_to_end.harness import gateway_here
from tests.gateway.edges.compat.conftest import Door, open_door
from tests.gateway.edges.compat.stability_v1.test_routes import ASKED, TEXT, b64
from tests.gateway.parts import migrated
from tests.pictures import flat

MAKE = "/v1/images/generations"
NATIVE = {
    "task": "txt2img",
    "model": "easel",
    "params": {"prompt": "a lighthouse", "width": 128, "height": 192, "steps": 10, "seed": 7},
}


async def test_one_key_joins_its_job_from_either_door(door: Door) -> None:
    """A ref is the subject's, not the door's."""
    door.easel.hold = asyncio.Event()
    made = await door.ask("POST", "/v1/jobs", NATIVE, idempotency_key="shot-1")
    joined = asyncio.ensure_future(door.ask("POST", TEXT, ASKED, idempotency_key="shot-1"))
    while len(door.running.gateway.doors.waiting) == 0:
        await asyncio.sleep(0.01)
    door.easel.hold.set()
    assert (await joined).headers["X-Job-Id"] == made.json["job"]
    assert len(door.easel.orders) == 1


async def test_job_goes_on_by_its_id_after_a_cut(door: Door) -> None:
    """By the dialect's status, by server-sent events from where the reader was, by a watch, and by the same key."""
    door.easel.hold = asyncio.Event()
    cut = asyncio.ensure_future(door.ask("POST", TEXT, ASKED, idempotency_key="shot-1"))
    while not (listed := (await door.ask("GET", "/v1/jobs?ref=shot-1")).json["jobs"]):
        await asyncio.sleep(0.01)
    cut.cancel()
    job = listed[0]["job"]
    read = asyncio.ensure_future(door.ask("GET", f"/v1/jobs/{job}/events"))
    async with Client(door.running.url, token=door.running.key) as client:
        watched = await client.watch(job)
        door.easel.hold.set()
        assert isinstance([event async for event in watched][-1], Completed)
    [*_, last] = numbers = re.findall(rb"^id: (\S+)$", (await read).body, re.MULTILINE)
    again = await door.ask("GET", f"/v1/jobs/{job}/events", last_event_id=numbers[0].decode())
    assert re.findall(rb"^id: (\S+)$", again.body, re.MULTILINE) == numbers[1:]
    assert b"id: " + last + b"\nevent: completed" in again.body
    status = await door.ask("GET", f"/v1/generation/{job}/status")
    joined = await door.ask("POST", TEXT, ASKED, idempotency_key="shot-1")
    assert status.json["artifacts"] == joined.json["artifacts"]
    assert (joined.headers["X-Job-Id"], len(door.easel.orders)) == (job, 1)


@pytest.mark.parametrize("key", ["", '""', '" "'])
async def test_an_empty_key_is_none(door: Door, key: str) -> None:
    """It does not make one job of all that is asked for with it."""
    words = ({"text_prompts": [{"text": text}]} for text in ("a", "b"))
    answers = [await door.ask("POST", TEXT, body, idempotency_key=key) for body in words]
    assert [answer.status for answer in answers] == [200, 200]
    counted = {"x_stainless_retry_count": "1", "idempotency_key": key}
    lost = [await door.ask("POST", MAKE, {"prompt": "p"}, **counted) for _ in range(2)]
    assert len({answer.headers["X-Job-Id"] for answer in (*answers, *lost)}) == 4


async def test_only_so_many_wait_for_one_job(door: Door) -> None:
    """One more is told whose job it is and when to come back; and a caller of whom too many wait makes no other job."""
    door.easel.hold, waiting, words = asyncio.Event(), door.running.gateway.doors.waiting, {"prompt": "p"}
    asked = [asyncio.ensure_future(door.ask("POST", MAKE, words, idempotency_key="k")) for _ in range(MOST_OF_JOB)]
    while len(waiting) < MOST_OF_JOB:
        await asyncio.sleep(0.01)
    for more in ({}, {"stream": True}):
        refused = await door.ask("POST", MAKE, words | more, idempotency_key="k")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert [refused.headers["X-Job-Id"]] == list(waiting._watches)
    waiting._most_of_caller = MOST_OF_JOB
    refused = await door.ask("POST", MAKE, words)
    assert (refused.status, "X-Job-Id" in refused.headers) == (429, False)
    assert (await door.ask("POST", MAKE, words, prefer="respond-async")).status == 202
    door.easel.hold.set()
    assert {(await one).status for one in asked} == {200}
    assert (len(waiting), len(waiting._callers)) == (0, 0)


async def test_gateway_stands_before_a_gateway(tmp_path: Any) -> None:
    """Our own v1 adapter is a client that was written against the vendor: the door is the vendor to it."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    inner.mkdir(), outer.mkdir()
    (outer / "ledger.db").write_bytes(migrated())
    async with open_door(inner) as door:
        engines = {"stable-diffusion-v1-6": Engine("stable-diffusion-v1-6", price_micros=900)}
        vendor = StabilityV1(name="inner", base_url=door.running.url, api_key=door.running.key, engines=engines)
        async with gateway_here(outer, upstreams=[vendor]) as running:
            before = Door(running, door.easel, door.client)
            asked = ASKED | {"width": 512, "height": 512, "samples": 2, "sampler": "K_EULER", "cfg_scale": 9}
            answer = await before.ask("POST", TEXT, asked)
            assert [one["seed"] for one in answer.json["artifacts"]] == [7, 8]
            assert [one["finishReason"] for one in answer.json["artifacts"]] == ["SUCCESS", "SUCCESS"]
            init, mask = flat((9, 8, 7), (512, 512)), flat(255, (512, 512), "L")
            path = TEXT.replace("text-to-image", "image-to-image-inpainting")
            answer = await before.ask("POST", path, asked | {"init_image": b64(init), "mask_image": b64(mask)})
            assert (answer.status, len(answer.json["artifacts"])) == (200, 2)
            findings = await vendor.probe()
            assert findings.problems == ()
            calls = schema.calls
            rows = await running.gateway.ledger.store.read(lambda connection: connection.execute(select(calls)).all())
            assert [row.cost_micros for row in rows] == [1800, 1800]
        tasks = [order.request.task for order in door.easel.orders]
        assert tasks == ["txt2img", "inpaint"]
