"""OpenAI's door by itself: what admission sees, what is told later, and clients that go away."""

import asyncio
import base64
from typing import Any

import aiohttp
import pytest

from gateway.core.images import measure
from gateway.core.records import NewJob
from gateway.edges.compat.patience import Watch
from tests.gateway.edges.compat.conftest import Door
from tests.gateway.edges.compat.openai_images.test_errors import EDIT, IMAGE, MAKE, MASK, edit, told
from tests.pictures import flat

UNLIKE = ("id", "run", "ref", "created_ms", "ref_expires_ms", "fingerprint", "request")
"""What no two jobs share; a request has a seed of its own, for this dialect has none."""


async def test_request_is_the_same_to_admission_as_a_native_one(door: Door) -> None:
    """Model, price, limits, who asks and the body's hash: only ids, times and the drawn seed differ."""
    jobs, seen = door.running.gateway.node.admission._ledger.jobs, list[NewJob]()
    submit = jobs.submit

    async def noting(new: NewJob) -> Any:
        seen.append(new)
        return await submit(new)

    jobs.submit = noting  # type: ignore[method-assign]
    params = {"prompt": "a lighthouse", "n": 2, "width": 128, "height": 192}
    native = {"task": "txt2img", "model": "easel", "params": params}
    assert (await door.ask("POST", "/v1/jobs", native)).status == 202
    asked = {"prompt": "a lighthouse", "n": 2, "size": "128x192", "model": "gpt-image-1"}
    assert (await door.ask("POST", MAKE, asked)).status == 200
    one, other = ({name: getattr(job, name) for name in NewJob.__slots__ if name not in UNLIKE} for job in seen)
    assert one == other
    assert seen[0].body_hash == seen[1].body_hash


async def test_hints_that_the_model_has_no_use_for_are_told(door: Door) -> None:
    """In the client's own words."""
    answer = await door.ask("POST", MAKE, {"prompt": "p", "background": "transparent", "style": "natural"})
    assert (answer.status, answer.headers["X-Ignored"]) == (200, "background, style")
    assert answer.json["background"] == "opaque"
    answer = await door.ask("POST", MAKE, {"prompt": "p", "background": "auto", "quality": "auto"})
    assert "X-Ignored" not in answer.headers


async def test_edits_in_json(door: Door) -> None:
    """The same as a form's, with the pictures as `data:` addresses."""
    address = "data:image/png;base64,"
    images = [{"image_url": address + base64.b64encode(IMAGE).decode()}]
    mask = {"image_url": address + base64.b64encode(MASK).decode()}
    answer = await door.ask("POST", EDIT, {"prompt": "p", "images": images, "mask": mask})
    assert answer.status == 200
    assert (await edit(door, ("image[0]", IMAGE), ("mask", MASK), ("prompt", "p"))).status == 200
    first, second = (order.request for order in door.easel.orders)
    assert [one.asset for one in first.inputs] == [one.asset for one in second.inputs]
    assert first.task == second.task == "inpaint"


async def test_more_references_than_the_model_takes_are_refused(door: Door) -> None:
    """By admission, as from any door."""
    images = [("image[]", flat((index, 0, 0), (64, 64))) for index in range(5)]
    assert told(await edit(door, *images, ("prompt", "p")))[0] == 400


async def test_a_client_that_does_not_wait_asks_later(door: Door) -> None:
    """202 with the id at once; the result has the form that is asked for then."""
    door.easel.hold = asyncio.Event()
    answer = await door.ask("POST", MAKE, {"prompt": "p"}, Prefer="respond-async")
    assert (answer.status, answer.json["status"], answer.json["data"]) == (202, "queued", [])
    path = answer.headers["Location"]
    assert (await door.ask("GET", path)).json["status"] in {"queued", "running"}
    door.easel.hold.set()
    while (later := (await door.ask("GET", f"{path}?output_format=webp")).json)["data"] == []:
        await asyncio.sleep(0.01)
    assert (later["status"], later["output_format"]) == ("completed", "webp")
    assert measure(base64.b64decode(later["data"][0]["b64_json"])).format == "webp"


async def test_who_may_only_read_has_nothing_stored(door: Door) -> None:
    """An address is of the picture as it was made, whatever format is asked for."""
    path = f"{MAKE}/" + (await door.ask("POST", MAKE, {"prompt": "p"})).headers["X-Job-Id"]
    door.running.gateway.node.pictures.store_output = None  # type: ignore[assignment,method-assign]
    later = (await door.ask("GET", f"{path}?output_format=webp&output_compression=7&response_format=url")).json
    async with door.client.get(later["data"][0]["url"]) as response:
        assert (later["output_format"], response.headers["Content-Type"]) == ("png", "image/png")


@pytest.mark.parametrize("policy,state", [("continue", "completed"), ("cancel", "canceled")])
async def test_a_client_that_leaves_in_mid_stream(brisk: Door, policy: str, state: str) -> None:
    """Its job does as its policy says, and nothing is left over."""
    brisk.easel.hold = asyncio.Event()
    headers = {"Authorization": f"Bearer {brisk.running.key}", "X-On-Disconnect": policy}
    asked = {"prompt": "p", "stream": True, "partial_images": 2}
    async with aiohttp.ClientSession() as client:
        response = await client.post(brisk.running.url + MAKE, json=asked, headers=headers)
        job = response.headers["X-Job-Id"]
        assert await response.content.readline() == b":\n"  # a sign of life: nothing else is to be told yet
        response.close()
    while len(brisk.running.gateway.doors.waiting):
        await asyncio.sleep(0.01)
    if policy == "continue":
        brisk.easel.hold.set()
    while (record := (await brisk.ask("GET", f"/v1/jobs/{job}")).json)["state"] not in {"completed", "canceled"}:
        await asyncio.sleep(0.01)
    assert record["state"] == state
    assert not any(feed.watchers for feed in brisk.running.gateway.node.feeds._feeds.values())


async def test_a_stream_ends_with_the_node(door: Door) -> None:
    """Its last event says that the job goes on."""
    door.easel.hold = asyncio.Event()
    asked = asyncio.ensure_future(door.ask("POST", MAKE, {"prompt": "p", "stream": True}))
    while not len(door.running.gateway.doors.waiting):
        await asyncio.sleep(0.01)
    door.running.gateway.doors.drain()
    answer = await asked
    assert answer.body.startswith(b"event: error\n") or b"\nevent: error\n" in answer.body
    assert b'"slow_down"' in answer.body
    door.easel.hold.set()


async def test_a_result_is_told_though_this_nodes_feed_lags(door: Door) -> None:
    """The ledger has an end a moment before who follows the job hears of it."""
    job = (await door.ask("POST", MAKE, {"prompt": "p"})).headers["X-Job-Id"]
    node, watch = door.running.gateway.node, Watch()
    found = await node.jobs.log(job)
    assert found is not None
    node.feeds.follow(node.feeds.fill(found[0], found[1][:1]), watch)
    assert (await door.ask("GET", f"{MAKE}/{job}")).json["status"] == "completed"
    node.feeds.leave(job, watch)
